//! Tasks of one data-path thread: started only where the thread's end awaits them.

use tokio_util::task::TaskTracker;

/// Lets hyper start its tasks on this thread, tracked.
#[derive(Clone)]
pub struct LocalExecutor {
    tasks: TaskTracker,
}

impl LocalExecutor {
    /// Tasks are tracked by `tasks`.
    #[must_use]
    pub const fn new(tasks: TaskTracker) -> Self {
        Self { tasks }
    }
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn_local(future);
    }
}
