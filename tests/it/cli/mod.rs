//! The command line against a door of its own making: arguments, profiles, client, sign-in, proxy.

mod access;
mod args;
mod audit;
mod audit_export;
mod breakglass;
mod client;
mod fake_door;
mod log;
mod login;
mod printer;
mod profile;
mod proxy;
mod renewal;
mod review;
mod token;

use std::io::Write;
use std::sync::{Arc, Mutex};

use doorward::cli::args::{Format, GlobalArgs};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::printer::Printer;

use crate::support::{SeededEntropy, TestClock, temporary_folder};

use self::fake_door::{FakeDoor, present};

/// What a printer wrote.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A person at a terminal of their own: a home folder, a clock, and what was printed.
pub struct Person {
    pub context: Context,
    pub clock: TestClock,
    pub out: Written,
    pub talk: Written,
    pub home: tempfile::TempDir,
}

impl Person {
    /// Somebody whose environment names this door.
    pub fn at(door: &FakeDoor) -> Self {
        Self::with(door, Format::Table)
    }

    pub fn with(door: &FakeDoor, format: Format) -> Self {
        let home = temporary_folder();
        let ca = home.path().join("door-ca.pem");
        std::fs::write(&ca, &door.ca_pem).unwrap();
        let (out, talk) = (Written::default(), Written::default());
        // The door's TLS goes by the real time, so the clock starts there.
        let clock = TestClock::at(present());
        let environment = Environment::of(&[
            ("DOORWARD_HOME", home.path().to_str().unwrap()),
            ("DOORWARD_SERVER", &door.origin),
            ("DOORWARD_CA", ca.to_str().unwrap()),
        ]);
        let context = Context {
            printer: Printer::new(format, false, Box::new(out.clone()), Box::new(talk.clone())),
            environment,
            global: GlobalArgs { output: format, ..GlobalArgs::default() },
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SeededEntropy::new(7)),
            banner: Default::default(),
        };
        Self { context, clock, out, talk, home }
    }
}
