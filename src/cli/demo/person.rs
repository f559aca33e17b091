//! Someone in the story: a home folder of their own, the commands they type, the requests they make.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderName, Method};

use crate::cli::args::{Arguments, GlobalArgs, raw_arguments};
use crate::cli::client::Banner;
use crate::cli::client::{Answer, ClientError, exchange};
use crate::cli::context::Context;
use crate::cli::dial;
use crate::cli::environment::Environment;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::cli::printer::Printer;
use crate::cli::renewal::{SignedIn, signed_in};
use crate::server::ambient::{SystemClock, SystemEntropy};

use super::house::House;
use super::transcript::Told;

/// What a command printed, data and talk in the order in which they came.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Someone at a terminal.
pub struct Person {
    name: &'static str,
    environment: Environment,
}

impl Person {
    /// Someone who knows the door and has not signed in.
    ///
    /// # Errors
    /// When the folder has a name that no environment can hold.
    pub fn new(house: &House, name: &'static str) -> Result<Self, Failure> {
        let home = house.folder().join("people").join(name);
        let ca = house.ca();
        let (Some(home), Some(ca)) = (home.to_str(), ca.to_str()) else {
            return Err(Failure::usage(format!("the temporary folder `{}` is not UTF-8", house.folder().display())));
        };
        let environment = Environment::of(&[
            ("DOORWARD_HOME", home),
            ("DOORWARD_SERVER", &house.control().to_string()),
            ("DOORWARD_CA", ca),
        ]);
        Ok(Self { name, environment })
    }

    fn context(&self, screen: &Screen, global: GlobalArgs) -> Context {
        let (out, talk) = (Box::new(screen.clone()), Box::new(screen.clone()));
        Context {
            printer: Printer::new(global.output, false, out, talk),
            environment: self.environment.clone(),
            global,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            banner: Banner::default(),
        }
    }

    /// Types `doorward …`, which is read and run as any command line.
    ///
    /// # Errors
    /// When it can't be read as one, or ends otherwise than `expected`.
    pub async fn types(&self, told: &mut Told, arguments: &[&str], expected: Exit) -> Result<String, Failure> {
        told.asked(&format!("{} $ doorward {}", self.name, quoted(arguments)));
        let words = std::iter::once("doorward").chain(arguments.iter().copied()).map(Into::into);
        let Arguments { global, command } =
            Arguments::try_parse_from(raw_arguments(words)).map_err(|error| Failure::usage(error.to_string()))?;
        let screen = Screen::default();
        let context = self.context(&screen, global);
        // A command waits on a runtime of its own, as in its own process.
        let exit = tokio::task::spawn_blocking(move || crate::cli::carried_out(&context, command))
            .await
            .map_err(|error| Failure::failed(format!("running the command: {error}")))?;
        let text = screen.text();
        // A picture of the challenge is for a camera, not for a transcript.
        let read = |line: &&str| !line.trim().is_empty() && !line.contains(['▀', '▄', '█']);
        told.answered(&text.lines().filter(read).collect::<Vec<_>>().join("\n"));
        if exit == expected {
            return Ok(text);
        }
        Err(Failure::failed(format!(
            "`doorward {}` ended with {}, not {}",
            quoted(arguments),
            exit.code(),
            expected.code()
        )))
    }

    /// Their session, and a client that shows its certificate.
    ///
    /// # Errors
    /// When they are not signed in.
    pub async fn signed_in(&self) -> Result<SignedIn, Failure> {
        signed_in(&self.context(&Screen::default(), GlobalArgs::default())).await
    }

    /// Makes a request with their certificate, on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn asks(
        &self,
        told: &mut Told,
        origin: &Origin,
        (method, path): (Method, &str),
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, Failure> {
        told.asked(&format!("{} > {method} {origin}{path}", self.name));
        for (name, value) in headers {
            told.asked(&format!("        {name}: {value}"));
        }
        let here = self.signed_in().await?;
        let (host, port) = (origin.host(), origin.port());
        let stream = dial::connect(&host, port).await.map_err(ClientError::from)?;
        let stream =
            dial::secure(stream, &host, port, Arc::clone(here.client.tls())).await.map_err(ClientError::from)?;
        let answer = exchange(stream, &origin.authority(), method, path, headers, Bytes::new()).await?;
        told.answered(&answer.status.to_string());
        Ok(answer)
    }
}

/// Arguments as a shell takes them.
fn quoted(arguments: &[&str]) -> String {
    let quote = |text: &&str| if text.contains(' ') { format!("\"{text}\"") } else { (*text).to_owned() };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}
