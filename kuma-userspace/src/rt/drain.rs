//! The one signal to end. Keeps: a request is never lost, however late somebody asks. Called by every task.

use tokio_util::sync::CancellationToken;

/// Heard by every task; cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(CancellationToken);

/// Asks everybody who holds a [`Drain`] of the pair to end.
#[derive(Clone, Debug)]
pub struct DrainTrigger(CancellationToken);

impl Drain {
    /// A pair: who asks, and who hears.
    pub fn pair() -> (DrainTrigger, Self) {
        let token = CancellationToken::new();
        (DrainTrigger(token.clone()), Self(token))
    }

    /// Returns once the end was asked for; at once if it was already.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Has the end been asked for?
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl DrainTrigger {
    /// Asks for the end; asking twice is harmless.
    pub fn request(&self) {
        self.0.cancel();
    }
}
