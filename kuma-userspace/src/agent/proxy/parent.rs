//! The thread that starts Envoy and lives as long as we do. The kernel ends a child when the *thread* that forked it
//! ends (prctl(2), PR_SET_PDEATHSIG), and tokio's threads come and go. Called by the supervisor.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// Commands that wait to be started.
const COMMANDS: usize = 1;

struct Request {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Ends its thread, and with it every child, when dropped.
pub(super) struct Parent(SyncSender<Request>);

impl Parent {
    pub(super) fn start() -> io::Result<Self> {
        let (requests, received) = sync_channel(COMMANDS);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("envoy-parent".into()).spawn(move || {
            let _entered = runtime.enter();
            serve(&received);
        })?;
        Ok(Self(requests))
    }

    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts Envoy has ended");
        let (answer, started) = oneshot::channel();
        self.0.try_send(Request { command, answer }).map_err(|_full_or_closed| gone())?;
        started.await.map_err(|_dropped| gone())?
    }
}

fn serve(requests: &Receiver<Request>) {
    while let Ok(Request { mut command, answer }) = requests.recv() {
        // Nobody waits any more: the child is dropped, and killed by that.
        let _ = answer.send(command.spawn());
    }
}
