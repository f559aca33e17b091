//! Chance as a parameter. The process has one source (`server::ambient::SystemEntropy`, the
//! operating system's through aws-lc-rs); simulations have a seeded one.

/// A source of bytes that nobody else can predict.
pub trait Entropy: Send + Sync {
    /// Fills `target` whole. A source that can't deliver must end the process: going on with
    /// predictable ids and salts is worse than not going on.
    fn fill(&self, target: &mut [u8]);

    /// 32 random bytes: enough for a token, a nonce or a salt.
    fn bytes_32(&self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        self.fill(&mut bytes);
        bytes
    }
}
