//! What lets hyper start tasks: only tracked, so that they are started only where an end awaits them.

use tokio_util::task::TaskTracker;

/// Lets hyper start its tasks on this thread of the data path.
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

/// Lets hyper start its tasks on the runtime that it is called on.
#[derive(Clone)]
pub struct Tracked {
    tasks: TaskTracker,
}

impl Tracked {
    /// Tasks are tracked by `tasks`.
    #[must_use]
    pub const fn new(tasks: TaskTracker) -> Self {
        Self { tasks }
    }
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(future);
    }
}
