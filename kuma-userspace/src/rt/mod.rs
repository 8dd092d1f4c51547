//! Process life: one [`Drain`] that everybody hears, [`Tasks`] that hear every exit, [`Ready`] that says what is awaited.
//! Called by agent, cp and cli.

mod drain;
mod ready;
mod tasks;

pub use drain::{Drain, DrainTrigger};
pub use ready::{Awaited, Ready, Wait};
pub use tasks::{TaskError, Tasks};
