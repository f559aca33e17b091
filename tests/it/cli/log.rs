//! The log goes to whoever reads it, and nobody waits for them.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorward::cli::log::{LINES_MAX, Lines};

/// A reader that takes nothing until it is told to.
struct Slow {
    go: Receiver<()>,
    going: bool,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.going {
            let _ = self.go.recv();
            self.going = true;
        }
        self.taken.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn slow() -> (Lines, Sender<()>, Arc<Mutex<Vec<u8>>>) {
    let (go, waits) = channel();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let sink = Slow { go: waits, going: false, taken: Arc::clone(&taken) };
    (Lines::to(sink).unwrap(), go, taken)
}

#[test]
fn a61_nobody_waits_for_a_log_that_is_not_read_and_what_was_lost_is_told() {
    let (mut lines, go, taken) = slow();
    let began = Instant::now();
    for number in 0..3 * LINES_MAX {
        lines.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let lost = lines.lost();
    assert!(lost >= u64::try_from(LINES_MAX).unwrap(), "{lost}");
    assert!(!lines.written_within(Duration::from_millis(20)), "the end does not wait for it either");
    go.send(()).unwrap();
    // The queue may still be full at this moment.
    let until = Instant::now() + Duration::from_secs(10);
    while !lines.written_within(Duration::from_secs(1)) {
        assert!(Instant::now() < until);
    }
    let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
    let kept: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(kept[..LINES_MAX / 2], (0..LINES_MAX / 2).collect::<Vec<_>>(), "what had room is there, in order");
    let told: Vec<serde_json::Value> =
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let counted: u64 = told.iter().map(|line| line["lines"].as_u64().unwrap()).sum();
    assert_eq!(counted + u64::try_from(kept.len()).unwrap(), u64::try_from(3 * LINES_MAX).unwrap());
    assert_eq!(lines.lost(), 0);
}

#[test]
fn what_is_in_the_log_is_written_at_the_end() {
    let (mut lines, go, taken) = slow();
    go.send(()).unwrap();
    lines.write_all(b"last words\n").unwrap();
    assert!(lines.written_within(Duration::from_secs(5)));
    assert_eq!(taken.lock().unwrap().as_slice(), b"last words\n");
}
