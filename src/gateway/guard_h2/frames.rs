//! The frames of a client's HTTP/2 bytes, counted against budgets (RFC 9113 §4, §6, §10.5). Pure:
//! bytes and time in, verdict out. Only the nine bytes before each frame are read; what they announce
//! is hyper's to judge, but how much and how often is ours.

use tokio::time::Instant;

use super::H2Limits;
use crate::gateway::guard::WireRefusal;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PUSH_PROMISE: u8 = 0x5;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Settings of one frame; the registry has about ten.
const SETTINGS_BYTES_MAX: u32 = 64 * 6;
/// So many bytes that we sent earn the client one WINDOW_UPDATE.
const BYTES_PER_WINDOW_UPDATE: u64 = 128;

/// Where the reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Preface { matched: usize },
    Header { bytes: [u8; 9], length: usize },
    Payload { left: u32 },
    Refused(WireRefusal),
}

/// Frames counted in one window of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    control: u32,
    opened: u32,
    resets: u32,
    window_updates: u32,
    empty_data: u32,
    bytes_written: u64,
}

/// The reading of one connection.
#[derive(Debug)]
pub struct Frames {
    place: Place,
    limits: H2Limits,
    window_start: Option<Instant>,
    counts: Counts,
    /// What was written in the window before: its updates come now.
    bytes_written_before: u64,
    settled: bool,
    /// Bytes and frames of the header block that is open.
    block: Option<(u32, u32)>,
    /// Counts the header blocks that were begun.
    requests: u64,
}

impl Frames {
    /// Before the first byte.
    #[must_use]
    pub const fn new(limits: H2Limits) -> Self {
        const NONE: Counts =
            Counts { control: 0, opened: 0, resets: 0, window_updates: 0, empty_data: 0, bytes_written: 0 };
        Self {
            place: Place::Preface { matched: 0 },
            limits,
            window_start: None,
            counts: NONE,
            bytes_written_before: 0,
            settled: false,
            block: None,
            requests: 0,
        }
    }

    /// Reads `bytes` that came at `now`; gives how many may be handed on. After fewer than all,
    /// [`Self::refusal`] says why.
    pub fn inspect(&mut self, bytes: &[u8], now: Instant) -> usize {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            match &mut self.place {
                Place::Payload { left } => {
                    let taken = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.place = Place::Header { bytes: [0; 9], length: 0 };
                    }
                    passed += taken as usize;
                }
                Place::Header { bytes: header, length } => {
                    let (Some(slot), Some(byte)) = (header.get_mut(*length), rest.first()) else {
                        return passed;
                    };
                    *slot = *byte;
                    *length += 1;
                    if *length == header.len() {
                        let header = *header;
                        match self.account(header, now) {
                            Ok(0) => self.place = Place::Header { bytes: [0; 9], length: 0 },
                            Ok(left) => self.place = Place::Payload { left },
                            Err(refusal) => {
                                self.place = Place::Refused(refusal);
                                return passed;
                            }
                        }
                    }
                    passed += 1;
                }
                Place::Preface { matched } => {
                    let expected = PREFACE.get(*matched..).unwrap_or_default();
                    let same = expected.iter().zip(rest).take_while(|(expected, byte)| expected == byte).count();
                    *matched += same;
                    passed += same;
                    if same == expected.len() {
                        self.place = Place::Header { bytes: [0; 9], length: 0 };
                    } else if same < rest.len() {
                        self.place = Place::Refused(WireRefusal::Malformed {
                            what: "the connection does not begin with the HTTP/2 preface",
                        });
                    }
                }
                Place::Refused(_) => return passed,
            }
        }
        passed
    }

    /// Judges a frame by its header; gives the length of its payload.
    fn account(&mut self, header: [u8; 9], now: Instant) -> Result<u32, WireRefusal> {
        let [high, middle, low, kind, flags, _, _, _, _] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        if length > self.limits.frame_bytes_max {
            return Err(WireRefusal::FrameTooLarge);
        }
        if !self.settled {
            if kind != SETTINGS || flags & ACK != 0 {
                return Err(WireRefusal::Malformed { what: "the first frame is not SETTINGS" });
            }
            self.settled = true;
        }
        self.turn_window(now);
        match (self.block, kind) {
            (Some((bytes, frames)), CONTINUATION) => return self.account_block(bytes, frames, length, flags),
            (Some(_), _) => return Err(WireRefusal::Malformed { what: "another frame is inside a header block" }),
            (None, CONTINUATION) => {
                return Err(WireRefusal::Malformed { what: "a CONTINUATION frame is outside a header block" });
            }
            (None, _) => {}
        }
        let limits = &self.limits;
        let counts = &mut self.counts;
        match kind {
            HEADERS => {
                counts.opened = counts.opened.saturating_add(1);
                self.requests = self.requests.wrapping_add(1);
                return self.account_block(0, 0, length, flags);
            }
            DATA => {
                if length == 0 && flags & END_STREAM == 0 {
                    counts.empty_data += 1;
                    if counts.empty_data > limits.empty_data_max {
                        return Err(WireRefusal::Flood { what: "too many empty DATA frames" });
                    }
                }
            }
            RST_STREAM => {
                // Taking back half of what one asks for is a bad day; nearly all of it is an attack.
                counts.resets += 1;
                if counts.resets > limits.resets_max.saturating_add(counts.opened / 2) {
                    return Err(WireRefusal::Flood { what: "too many RST_STREAM frames" });
                }
            }
            WINDOW_UPDATE => {
                counts.window_updates += 1;
                let earned = (counts.bytes_written + self.bytes_written_before) / BYTES_PER_WINDOW_UPDATE;
                if u64::from(counts.window_updates) > u64::from(limits.window_updates_max) + earned {
                    return Err(WireRefusal::Flood { what: "too many WINDOW_UPDATE frames" });
                }
            }
            PUSH_PROMISE => return Err(WireRefusal::Malformed { what: "a client sends PUSH_PROMISE" }),
            // SETTINGS, PING, PRIORITY, GOAWAY, and what isn't known: each may cost us an answer or a look.
            _ => {
                counts.control += 1;
                if counts.control > limits.control_frames_max {
                    let what = match kind {
                        SETTINGS => "too many control frames, the last one SETTINGS",
                        PING => "too many control frames, the last one PING",
                        PRIORITY => "too many control frames, the last one PRIORITY",
                        _ => "too many control frames",
                    };
                    return Err(WireRefusal::Flood { what });
                }
                if kind == SETTINGS && length > SETTINGS_BYTES_MAX {
                    return Err(WireRefusal::FrameTooLarge);
                }
            }
        }
        Ok(length)
    }

    /// Adds a frame to the header block.
    fn account_block(&mut self, bytes: u32, frames: u32, length: u32, flags: u8) -> Result<u32, WireRefusal> {
        let bytes = bytes.saturating_add(length);
        let frames = frames + 1;
        if bytes > self.limits.header_block_bytes_max {
            return Err(WireRefusal::HeadTooLarge);
        }
        if frames > self.limits.header_block_frames_max {
            return Err(WireRefusal::Flood { what: "too many CONTINUATION frames" });
        }
        self.block = (flags & END_HEADERS == 0).then_some((bytes, frames));
        Ok(length)
    }

    fn turn_window(&mut self, now: Instant) {
        match self.window_start {
            Some(start) if now.duration_since(start) < self.limits.window => {}
            Some(_) => {
                self.bytes_written_before = self.counts.bytes_written;
                self.counts = Counts::default();
                self.window_start = Some(now);
            }
            None => self.window_start = Some(now),
        }
    }

    /// Bytes went to the client.
    pub const fn wrote(&mut self, bytes: usize) {
        self.counts.bytes_written = self.counts.bytes_written.saturating_add(bytes as u64);
    }

    /// Why no more bytes pass, once none do.
    #[must_use]
    pub const fn refusal(&self) -> Option<WireRefusal> {
        match self.place {
            Place::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether preface and first SETTINGS have come.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether the client began something that it has not finished: a frame or a header block.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.block.is_some() || matches!(self.place, Place::Payload { .. } | Place::Header { length: 1.., .. })
    }

    /// How many header blocks were begun.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }
}
