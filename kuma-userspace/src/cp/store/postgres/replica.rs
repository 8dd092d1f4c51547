//! The task that keeps or awaits the lease and hears what other replicas store.
//! Keeps: a replica that cannot reach the database goes on asking, and takes part again when it can; on a graceful end the
//! lease is free at once. Started by cp.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Instant;

use sqlx::postgres::PgListener;
use tracing::{debug, info, warn};

use super::documents;
use super::lease::{Action, Event, HEARTBEAT, LEASE, Lease, Turn};
use super::revisions::{self, Last};
use super::server::{CALL_TIMEOUT, Server};
use crate::cp::store::StoreError;
use crate::rt::Drain;

/// Where replicas tell each other that they stored something; the payload is who.
pub(super) const CHANNEL: &str = "kuma_dns";

/// Renews the lease; a free one, or one that has run out, becomes ours in the next epoch. The one clock is the database's.
const ASK: &str = "
INSERT INTO kuma_dns_lease AS lease (id, holder, epoch, expires_at)
VALUES (1, $1, 1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (id) DO UPDATE SET
    epoch = CASE WHEN lease.holder = $1 THEN lease.epoch ELSE lease.epoch + 1 END,
    holder = $1,
    expires_at = clock_timestamp() + make_interval(secs => $2)
WHERE lease.holder = $1 OR lease.expires_at < clock_timestamp()
RETURNING epoch";

const RELEASE: &str = "UPDATE kuma_dns_lease SET expires_at = '-infinity' WHERE id = 1 AND holder = $1";

/// One replica's part in the lease.
#[derive(Debug)]
pub struct Replica {
    server: Server,
    holder: String,
    lease: Lease,
    /// What was there at the last heartbeat.
    last: Last,
}

/// A name that no other process has had: who, where, and something random.
pub(super) fn name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Two containers may share host name and process id. The standard library seeds its hash maps from the kernel.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{host}/{}/{random:016x}", std::process::id())
}

impl Replica {
    pub(super) fn new(server: Server, holder: String) -> Self {
        Self { server, holder, lease: Lease::new(Instant::now()), last: Last::default() }
    }

    /// Keeps the lease, or waits for it, until the drain is asked for.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub async fn run(mut self, drain: Drain) -> Result<(), std::convert::Infallible> {
        let (server, holder) = (self.server.clone(), self.holder.clone());
        tokio::select! {
            () = drain.requested() => {}
            () = self.beat() => {}
            () = listen(&server, &holder) => {}
        }
        if let Err(error) = release(&server, &holder).await {
            debug!(%error, "the lease was not given back, it runs out by itself");
        }
        Ok(())
    }

    /// One question to the database, and what follows from the answer.
    pub(super) async fn ask(&mut self) {
        let asked = Instant::now();
        let event = match ask(&self.server, &self.holder).await {
            Ok(Answer { epoch, last }) => {
                self.compare(epoch.is_none(), last);
                epoch.map_or(Event::Taken, |epoch| Event::Held { asked, epoch })
            }
            Err(error) => {
                debug!(%error, "the lease could not be asked for");
                Event::Failed
            }
        };
        for action in self.lease.step(event, Instant::now()) {
            self.act(action);
        }
    }

    /// A notification may have been lost, or never comes where a pooler stands before the database: each heartbeat finds
    /// what is new as well. A leader knows of its own records.
    fn compare(&mut self, following: bool, last: Last) {
        let before = std::mem::replace(&mut self.last, last);
        if last.documents != before.documents {
            self.server.tell_documents();
        }
        if following && last.vips != before.vips {
            self.server.tell();
        }
    }

    async fn beat(&mut self) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            heartbeat.tick().await;
            for action in self.lease.step(Event::Tick, Instant::now()) {
                match action {
                    Action::Ask => self.ask().await,
                    other => self.act(other),
                }
            }
        }
    }

    fn act(&self, action: Action) {
        match action {
            Action::Ask => {}
            Action::Read => self.server.tell(),
            Action::Say(Turn::Ours { epoch }) => info!(epoch, "this replica leads: it hands out VIPs"),
            Action::Say(Turn::Theirs) => info!("another replica leads, or none: this one follows"),
        }
    }
}

/// What the database said.
struct Answer {
    /// Nothing when another replica leads.
    epoch: Option<u64>,
    last: Last,
}

async fn ask(server: &Server, holder: &str) -> Result<Answer, StoreError> {
    let mut connection = server.acquire().await?;
    let question = async {
        let query = sqlx::query_scalar::<_, i64>(ASK).bind(holder).bind(LEASE.as_secs_f64());
        let epoch = query.fetch_optional(&mut *connection).await?.map(i64::cast_unsigned);
        Ok(Answer { epoch, last: revisions::last(&mut connection).await? })
    };
    let asked = tokio::time::timeout(CALL_TIMEOUT, question).await;
    server.settle("renew the lease in", connection, asked)
}

async fn release(server: &Server, holder: &str) -> Result<(), StoreError> {
    let mut connection = server.acquire().await?;
    let query = sqlx::query(RELEASE).bind(holder);
    let released = tokio::time::timeout(CALL_TIMEOUT, query.execute(&mut *connection)).await;
    server.settle("give back the lease in", connection, released).map(|_| ())
}

/// Hears what others store. A connection that was lost may have missed something: everything is read again.
async fn listen(server: &Server, holder: &str) {
    loop {
        match hear(server, holder).await {
            Ok(never) => match never {},
            Err(error) => warn!(%error, "changes of other replicas are not heard, only read now and then"),
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn hear(server: &Server, holder: &str) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = PgListener::connect_with(server.pool()).await?;
    listener.listen_all([CHANNEL, documents::CHANNEL]).await?;
    server.tell();
    server.tell_documents();
    loop {
        match listener.try_recv().await? {
            Some(heard) if heard.payload() == holder => {}
            Some(heard) if heard.channel() == documents::CHANNEL => server.tell_documents(),
            Some(_) => server.tell(),
            None => {
                server.tell();
                server.tell_documents();
            }
        }
    }
}
