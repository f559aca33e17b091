//! A mail server that takes what comes, but for the mailboxes that it is told to refuse.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One mail as it came.
#[derive(Debug, Clone, Default)]
pub struct Mail {
    pub to: Vec<String>,
    pub text: String,
}

#[derive(Clone, Default)]
pub struct MailSink {
    pub got: Arc<Mutex<Vec<Mail>>>,
    pub refused: Arc<Mutex<Vec<String>>>,
}

impl MailSink {
    /// Starts it; gives its port.
    pub async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sink = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sink = sink.clone();
                tokio::spawn(async move { drop(sink.serve(stream).await) });
            }
        });
        port
    }

    /// What came for an address.
    pub fn of(&self, address: &str) -> Vec<Mail> {
        let got = self.got.lock().unwrap();
        got.iter().filter(|mail| mail.to.iter().any(|to| to == address)).cloned().collect()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 sink\r\n").await?;
        let (mut mail, mut in_text) = (Mail::default(), false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            let answer: &[u8] = match line.split(' ').next().unwrap() {
                "." if in_text => {
                    in_text = false;
                    self.got.lock().unwrap().push(std::mem::take(&mut mail));
                    b"250 taken\r\n"
                }
                _ if in_text => {
                    mail.text.push_str(line);
                    mail.text.push('\n');
                    continue;
                }
                "DATA" => {
                    in_text = true;
                    b"354 go on\r\n"
                }
                "RCPT" => {
                    let to = line.split(['<', '>']).nth(1).unwrap().to_owned();
                    if self.refused.lock().unwrap().contains(&to) {
                        b"550 no such mailbox\r\n"
                    } else {
                        mail.to.push(to);
                        b"250 sink\r\n"
                    }
                }
                "QUIT" => return Ok(()),
                _ => b"250 sink\r\n",
            };
            stream.write_all(answer).await?;
        }
    }
}
