//! The control plane: services in, VIPs and names allocated and stored, xDS out. In reading order:
//!
//! - [`resources`], [`settings`], [`yaml`], [`violation`]: files to checked resources, every mistake with its place.
//! - [`watch`]: edits of those files; [`registry`]: what they give and what people put here, as one.
//! - [`configuration`]: what a control plane of its own is told by file, environment and flags.
//! - [`names`], [`plan`], [`allocator`], [`record`], [`clock`]: the rules, pure.
//! - [`store`]: what must survive a restart.
//! - [`publish`]: all of these together, into a [`snapshot`] that everybody reads; [`status`]: how it goes.
//! - [`secrets`], [`tls`], [`tokens`]: what all replicas share and nobody else knows; connections that prove who we are, and tokens
//!   that prove who somebody else is.
//! - [`xds`]: the snapshot to proxies and agents, in the right order.
//! - [`rest`]: resources to whoever reads and writes them, and VIPs.
//! - [`dns`]: the snapshot's names to whoever asks for them from outside of the mesh.
//! - [`diagnostics`]: how all of this is, for monitoring.
//! - [`install`]: tells a cluster's DNS about us; apart from all of these.
//!
//! Keeps: persist before publish. Called by cli.

pub mod allocator;
pub mod clock;
pub mod configuration;
pub mod diagnostics;
pub mod dns;
pub mod install;
pub mod names;
pub mod plan;
pub mod publish;
pub mod record;
pub mod registry;
pub mod resources;
pub mod rest;
pub mod secrets;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod store;
mod template;
pub mod tls;
pub mod tokens;
pub mod violation;
pub mod watch;
pub mod xds;
pub mod yaml;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch as channel;
use tracing::{info, warn};

pub use self::status::Status;
pub use self::violation::{Invalid, Violation};

use self::diagnostics::{Metered, Meters};
use self::dns::DnsServer;
use self::publish::{Publish, Publisher};
use self::registry::{LayerReader, Registry, Writer};
use self::secrets::{SecretError, Secrets};
use self::settings::Settings;
use self::snapshot::{Outbounds, Snapshot};
use self::status::StatusCell;
use self::store::postgres::Replica;
use self::store::{StoreConfig, StoreError};
use self::tls::{Authority, Identity, Listener, Transport};
use self::tokens::{Issuer, KeyError, TokenCheck, Verifier};
use self::watch::Watch;
use self::xds::Admission;
use crate::rt::{Drain, DrainTrigger, Ready, TaskError, Tasks};

/// What the control plane is told from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// Resource files and directories of them; they are followed. None: everything comes over REST.
    pub files: Vec<PathBuf>,
    /// Settings that the files may not change; without, they have their own.
    pub settings: Option<Settings>,
    /// Where the VIPs are stored.
    pub store: StoreConfig,
    /// Where proxies and agents connect.
    pub xds: SocketAddr,
    pub serving: Serving,
    /// Where resources are read and written.
    pub api: rest::Config,
    /// How proxies are told of VIPs; `None` leaves it to the files.
    pub outbounds: Option<Outbounds>,
}

/// To whom it speaks, and how; by default to everyone who reaches the ports, which is right on loopback.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Serving {
    /// Of proxies and agents.
    pub transport: Transport,
    /// What the tokens of proxies and agents are checked by; nothing: they need none.
    pub tokens: Option<TokenCheck>,
    /// What the tokens of users of the API are checked by.
    pub user_tokens: TokenCheck,
    /// Where the certificate of our own authority is put, if there is one.
    pub ca_file: Option<PathBuf>,
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    pub settings: Settings,
    pub meshes: BTreeSet<String>,
    pub services: usize,
    pub endpoints: usize,
}

/// Why the control plane cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Xds(#[from] xds::Error),
    #[error(transparent)]
    Dns(#[from] dns::Error),
    #[error(transparent)]
    Rest(#[from] rest::Error),
    #[error(transparent)]
    Secrets(#[from] SecretError),
    #[error("a public key of the configuration cannot be used")]
    Key(#[from] KeyError),
    #[error("cannot serve with TLS")]
    Tls(#[from] tls::Error),
    #[error("opening the control plane panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Reads resource files and says what is in them, or everything that is wrong. Nothing is started or stored.
///
/// # Errors
/// Every mistake in every file.
pub fn check(files: &[PathBuf], settings: Option<&Settings>) -> Result<Summary, Invalid> {
    let resources = resources::read_under(files, settings)?;
    let services = resources.services();
    Ok(Summary {
        settings: resources.settings,
        meshes: services.keys().map(|key| key.mesh.to_string()).collect(),
        services: services.len(),
        endpoints: services.values().map(|service| service.endpoints.len()).sum(),
    })
}

/// Runs a control plane until the drain is asked for.
///
/// # Errors
/// See [`Error`]; bad files, a store in use and a port in use are found before anything is served.
pub async fn run(config: Config, drain: Drain, ready: Ready) -> Result<(), Error> {
    ControlPlane::open(config, &ready).await?.run(drain).await
}

/// A control plane that has read its files, opened its store, allocated every VIP and taken its port, and serves nobody
/// yet.
pub struct ControlPlane {
    publish: Publish,
    watch: Watch,
    writer: Writer,
    xds: xds::Server,
    secrets: Secrets,
    /// Certificates that are followed.
    identity: Option<Identity>,
    dns: Option<DnsServer>,
    api: Option<rest::Server>,
    status: StatusCell,
    /// Our part among those that use the store.
    replica: Option<Replica>,
    meters: Meters,
}

impl ControlPlane {
    /// Reads, checks, takes the ports, opens the store, allocates. `ready` waits for VIPs, and then for the first proxy.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(config: Config, ready: &Ready) -> Result<Self, Error> {
        let awaited = ready.wait_for("the VIPs of the resources");
        let Config { files: paths, settings: fixed, store, xds, serving, api, outbounds } = config;
        let status = StatusCell::default();
        status.update(|status| status.files.clone_from(&paths));
        let (reader, layer) = blocking(move || {
            let mut reader = LayerReader::new(paths, fixed);
            let layer = reader.look()?.expect("the first look is always news");
            Ok((reader, layer))
        })
        .await?;
        let listener = Listener::bind(xds).await.map_err(xds::Error::from)?;
        let dns = DnsServer::bind(&layer.settings.dns_server)?;
        let api = rest::Server::bind(api).await?;
        let (layers, given) = channel::channel(Arc::new(layer));
        let store::Opened { records, documents, replica } = store.open().await?;
        let (addr, checked) = (listener.local_addr(), serving.tokens.clone());
        let user_tokens = serving.user_tokens.clone();
        let stored = documents.clone();
        let (secrets, identity, api) = blocking(move || {
            let secrets = Secrets::open(stored)?;
            let (identity, api) = identities(&serving, addr, api, &secrets)?;
            Ok((secrets, identity, api))
        })
        .await?;
        let tls = identity.as_ref().map(|identity| identity.server_config(&[xds::PROTOCOL]));
        let meters = Meters::default();
        let measured = meters.clone();
        let reported = status.clone();
        let (writer, publish) = blocking(move || {
            let writer = Writer::open(documents, given, reported.clone())?;
            let resources = writer.resources();
            let records = Box::new(Metered::new(records, measured.clone()));
            let publisher = Publisher::open(records, &resources.borrow().settings)?;
            let publisher = publisher.with_outbounds(outbounds);
            Ok((writer, Publish::first(publisher, resources, reported, measured)?))
        })
        .await?;
        let api = api
            .map(|api| Ok::<_, KeyError>(api.with_users(users(user_tokens.verifier(&secrets)?))))
            .transpose()?;
        let admission = match checked {
            Some(check) => Admission::by_token(check.verifier(&secrets)?, writer.resources()),
            None => Admission::default(),
        };
        let xds = xds::Server::on(listener.with_tls(tls)).with_ready(ready.clone()).with_admission(admission);
        drop(awaited);
        let watch = Watch { reader: Some(reader), layers, status: status.clone() };
        Ok(Self { publish, watch, writer, xds, secrets, identity, dns, api, status, replica, meters })
    }

    /// What is decided and stored, now and from now on.
    pub fn snapshots(&self) -> channel::Receiver<Arc<Snapshot>> {
        self.publish.snapshots.subscribe()
    }

    /// Where proxies and agents connect: the port that was taken when 0 was asked for.
    pub fn xds_addr(&self) -> SocketAddr {
        self.xds.local_addr()
    }

    /// Who is connected and what is awaited of whom, now and at any later time.
    pub fn xds_status(&self) -> xds::StatusReader {
        self.xds.status()
    }

    /// How it goes, now and from now on.
    pub fn status(&self) -> channel::Receiver<Status> {
        self.status.subscribe()
    }

    /// What metrics are made from.
    pub fn sources(&self) -> diagnostics::Sources {
        diagnostics::Sources {
            status: self.status(),
            xds: self.xds_status(),
            dns: self.dns.as_ref().map(DnsServer::counted).unwrap_or_default(),
            meters: self.meters.clone(),
        }
    }

    /// Where the API is served: the ports that were taken where 0 was asked for.
    pub fn api_addrs(&self) -> Vec<SocketAddr> {
        self.api.as_ref().map(rest::Server::local_addrs).unwrap_or_default()
    }

    /// Every resource, to read and to write.
    pub fn registry(&self) -> Registry {
        self.writer.registry()
    }

    /// Follows the files, takes writes and publishes until the drain is asked for.
    ///
    /// # Errors
    /// The first task that fails.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let snapshots = self.snapshots();
        let (trigger, own) = Drain::pair();
        let mut tasks = Tasks::new(trigger.clone(), own.clone());
        tasks.spawn("drain relay", relay(drain, trigger, own.clone()));
        if let Some(dns) = self.dns {
            tasks.spawn("dns", dns.run(snapshots.clone(), self.writer.resources(), own.clone()));
        }
        tasks.spawn("watch", self.watch.run(own.clone()));
        let (after_requests, later) = Drain::pair();
        let served = rest::Served {
            registry: self.writer.registry(),
            resources: self.writer.resources(),
            snapshots: snapshots.clone(),
            status: self.status.subscribe(),
            xds: self.xds.status(),
            issuer: Issuer::new(self.secrets.clone()),
        };
        tasks.spawn("api", answer(self.api, served, own.clone(), after_requests));
        // Writes in flight are finished before what stores them ends.
        tasks.spawn("registry", self.writer.run(later));
        tasks.spawn("publish", self.publish.run(own.clone()));
        tasks.spawn("secrets", self.secrets.run(own.clone()));
        if let Some(identity) = self.identity {
            tasks.spawn("certificate", identity.run(own.clone()));
        }
        if let Some(replica) = self.replica {
            tasks.spawn("replica", replica.run(own.clone()));
        }
        tasks.spawn("xds", self.xds.run(snapshots, own));
        Ok(tasks.run().await?)
    }
}

/// The certificate of our own authority, which whoever wants to trust us needs. Made at first use; the store must not be in use
/// by another process unless it is one that several share.
///
/// # Errors
/// The store cannot be opened, read or written.
pub async fn authority(store: StoreConfig) -> Result<Authority, Error> {
    let store::Opened { documents, .. } = store.open().await?;
    blocking(move || Ok(Authority::obtain(&Secrets::open(documents)?).map_err(tls::Error::from)?)).await
}

/// Who the server for proxies and agents on `addr` is, and the API; without TLS nobody in particular.
fn identities(
    serving: &Serving,
    addr: SocketAddr,
    api: Option<rest::Server>,
    secrets: &Secrets,
) -> Result<(Option<Identity>, Option<rest::Server>), tls::Error> {
    let issued = serving.transport == Transport::Issued;
    let authority = if issued || api.as_ref().is_some_and(rest::Server::wants_authority) {
        Some(own_authority(secrets, serving.ca_file.as_deref())?)
    } else {
        None
    };
    let api = api.map(|api| api.identify(authority.as_ref())).transpose()?;
    Ok((Identity::of(&serving.transport, authority.as_ref(), addr)?, api))
}

fn own_authority(secrets: &Secrets, file: Option<&Path>) -> Result<Arc<Authority>, tls::Error> {
    let authority = Arc::new(Authority::obtain(secrets)?);
    let fingerprint = authority.fingerprint();
    let written = file.map_or(Ok(()), |file| authority.publish(file));
    let path = file.map(|file| file.display().to_string()).unwrap_or_default();
    match written {
        Ok(()) => info!(file = path, fingerprint, "proxies and agents need this certificate to trust us"),
        Err(error) => {
            warn!(file = path, fingerprint, %error, "the certificate that proxies and agents need cannot be written: --print-ca prints it")
        }
    }
    Ok(authority)
}

/// Whose token it is, for the API.
fn users(verifier: Verifier) -> rest::Identify {
    Arc::new(move |token| {
        let identity =
            verifier.user(token).map_err(|refusal| format!("the token is not accepted: {refusal}"))?.identity;
        Ok(rest::User { name: identity.name, groups: identity.groups })
    })
}

/// Runs what reads and writes files on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Panicked)?
}

/// Serves the API, if it is served; asks for the end of what it needs once it has ended.
async fn answer(
    api: Option<rest::Server>,
    served: rest::Served,
    drain: Drain,
    after: DrainTrigger,
) -> Result<(), std::convert::Infallible> {
    match api {
        Some(api) => api.run(served, drain).await?,
        None => drain.requested().await,
    }
    after.request();
    Ok(())
}

/// Passes the outer request on to our own tasks, which also end when one of them does.
async fn relay(outer: Drain, trigger: DrainTrigger, own: Drain) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = outer.requested() => trigger.request(),
        () = own.requested() => {}
    }
    own.requested().await;
    Ok(())
}
