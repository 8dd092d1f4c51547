//! The server over real sockets, with clients of the test's own. Envoy itself is in tests/tests/envoy.rs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use ipnetwork::IpNetwork;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use super::*;
use crate::cp::snapshot::{Entry, Listener, MeshHeader, MeshSnapshot, Outbounds, Protocol, Published};
use crate::model::name::Hostname;
use crate::model::view::{Addresses, Header, Port};
use crate::rt::DrainTrigger;
use crate::wire::node::{Introduction, Role};
use crate::wire::resource::ResourceType;
use crate::wire::view::{self, Decoded, Named};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// More ranges than a stream's flow-control window holds: a client that does not read stops the flow.
const RANGES: u32 = 50_000;

/// A running server.
struct Running {
    snapshots: watch::Sender<Arc<Snapshot>>,
    addr: SocketAddr,
    status: StatusReader,
    trigger: DrainTrigger,
    tasks: JoinSet<Result<(), Error>>,
}

impl Running {
    async fn start(snapshot: Arc<Snapshot>) -> Self {
        Self::start_with(snapshot, Ready::default()).await
    }

    async fn start_with(snapshot: Arc<Snapshot>, ready: Ready) -> Self {
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap().with_ready(ready);
        let (addr, status) = (server.local_addr(), server.status());
        let (snapshots, published) = watch::channel(snapshot);
        let (trigger, drain) = Drain::pair();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(published, drain));
        Self { snapshots, addr, status, trigger, tasks }
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.addr)).await.unwrap()
    }

    async fn agent(&self, id: &str, view: &str) -> Client {
        let introduction = Introduction {
            id: id.into(),
            role: Role::Agent,
            view: view.into(),
            outbound_port: Port::new(15001),
        };
        self.open(introduction.write(), ResourceType::MeshView.url(), &[view]).await
    }

    async fn open(&self, node: Node, type_url: &str, names: &[&str]) -> Client {
        let (requests, outgoing) = tokio::sync::mpsc::channel(4);
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: type_url.into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let answers = self.client().await.delta_aggregated_resources(outgoing).await.unwrap().into_inner();
        Client { requests, answers }
    }

    /// Waits until this many clients are connected.
    async fn connected(&self, count: usize) {
        let connected = async {
            while self.status.read().views.iter().map(|view| view.clients.len()).sum::<usize>() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(ANSWER_LIMIT, connected).await.unwrap();
    }
}

struct Client {
    requests: tokio::sync::mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, tonic::Status> {
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.answers.message()).await.unwrap();
        Ok(answer?.expect("the stream goes on"))
    }

    /// The header of the next view, acknowledged.
    async fn view(&mut self) -> Header {
        let answer = self.next().await.unwrap();
        let ack = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(ack).await.unwrap();
        let header = answer.resources.iter().find(|resource| !resource.name.contains('/')).unwrap();
        match view::decode(Named::Header, &header.resource.as_ref().unwrap().value).unwrap() {
            Decoded::Header(header) => header,
            Decoded::Part(part) => panic!("{part:?}"),
        }
    }
}

/// Mesh `default` without services: its view needs no proxy.
fn empty_mesh(ttl_secs: u32, ranges: u32) -> Arc<Snapshot> {
    let range = |n: u32| IpNetwork::new(Ipv4Addr::from(0xf000_0000 + n).into(), 32).unwrap();
    let header = MeshHeader {
        domain: Hostname::parse("mesh").unwrap(),
        ttl_secs,
        ranges: (0..ranges).map(range).collect(),
        outbounds: Outbounds::default(),
    };
    let mesh = MeshSnapshot { header: Arc::new(header), vips: imbl::OrdMap::new() };
    Arc::new(Snapshot { meshes: BTreeMap::from([("default".into(), mesh)]) })
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_back() {
    let running = Running::start(empty_mesh(0, RANGES)).await;
    let _slow = running.agent("slow", "default").await;
    let mut quick = running.agent("quick", "default").await;
    assert_eq!(quick.view().await.ttl_secs, 0);
    for ttl_secs in 1..=20 {
        running.snapshots.send_replace(empty_mesh(ttl_secs, RANGES));
        assert_eq!(quick.view().await.ttl_secs, ttl_secs);
    }
    let status = running.status.read();
    let pending =
        |node: &str| status.views[0].clients.iter().find(|c| c.node == node).unwrap().pending.clone();
    assert_eq!(pending("slow"), ["mesh view"]);
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_the_status() {
    let running = Running::start(empty_mesh(1, 1)).await;
    let mut agent = running.agent("agent", "default").await;
    agent.view().await;
    running.connected(1).await;
    drop(agent);
    running.connected(0).await;
}

#[tokio::test]
async fn a_mesh_that_does_not_exist_is_waited_for() {
    let running = Running::start(Arc::default()).await;
    let mut agent = running.agent("agent", "default").await;
    running.connected(1).await;
    let waiting = running.status.read().views[0].waiting.join(" ");
    assert!(waiting.contains(r#"mesh "default" does not exist"#), "{waiting}");
    running.snapshots.send_replace(empty_mesh(1, 1));
    assert_eq!(agent.view().await.ttl_secs, 1);
}

#[tokio::test]
async fn only_a_mesh_that_somebody_waits_for_holds_readiness_back() {
    let listener = Listener {
        cluster: "redis".into(),
        ports: [Port::new(80)].into(),
        protocol: Protocol::Tcp,
        endpoints: [].into(),
    };
    let hostnames = [Hostname::parse("redis.mesh").unwrap()].into();
    let addresses = Addresses { v4: Some([240, 0, 0, 1].into()), v6: None };
    let redis = Published::new(addresses, Arc::new(Entry { hostnames, listeners: [listener].into() }));
    let mut snapshot = (*empty_mesh(1, 16)).clone();
    let mut other = snapshot.meshes["default"].clone();
    other.vips.insert("redis".into(), redis);
    snapshot.meshes.insert("other".into(), other);
    let ready = Ready::default();
    let running = Running::start_with(Arc::new(snapshot), ready.clone()).await;
    running.agent("agent", "default").await.view().await;
    assert!(ready.awaited().is_empty(), "{:?}", ready.awaited());

    let _agent = running.agent("agent", "other").await;
    let held = async {
        while ready.awaited() != [r#"a proxy that takes the listeners of mesh "other""#] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(ANSWER_LIMIT, held).await.unwrap();
}

#[tokio::test]
async fn a_type_that_is_not_served_is_answered_with_absence() {
    let running = Running::start(empty_mesh(1, 1)).await;
    let url = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
    let node = Node { id: "envoy".into(), cluster: "default".into(), ..Node::default() };
    let mut client = running.open(node, url, &["layer"]).await;
    let answer = client.next().await.unwrap();
    assert_eq!((answer.type_url.as_str(), answer.removed_resources), (url, vec!["layer".to_owned()]));
}

#[tokio::test]
async fn who_cannot_be_served_is_told_why() {
    let running = Running::start(empty_mesh(1, 1)).await;
    let nameless = Node { id: "envoy".into(), ..Node::default() };
    let mut client = running.open(nameless, ResourceType::Listener.url(), &[]).await;
    let told = client.next().await.unwrap_err();
    assert!(told.message().contains("names no view"), "{told}");

    let request = tokio_stream::once(DiscoveryRequest::default());
    let mut answers = running.client().await.stream_aggregated_resources(request).await.unwrap().into_inner();
    let told = answers.message().await.unwrap_err();
    assert!(told.message().contains("names no view"), "{told}");
}

#[tokio::test]
async fn a_server_that_ends_ends_its_streams() {
    let mut running = Running::start(empty_mesh(1, 1)).await;
    let mut agent = running.agent("agent", "default").await;
    agent.view().await;
    running.trigger.request();
    assert_eq!(agent.next().await.unwrap_err().code(), tonic::Code::Unavailable);
    let ended = tokio::time::timeout(ANSWER_LIMIT, running.tasks.join_next()).await.unwrap();
    assert!(ended.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn an_address_that_is_taken_or_open_to_others_is_refused_in_words() {
    let first = Server::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let taken = Server::bind(first.local_addr()).await.unwrap_err().to_string();
    assert!(taken.contains(&first.local_addr().to_string()) && taken.contains("--xds-port"), "{taken}");
    let open = Server::bind((Ipv4Addr::UNSPECIFIED, 0).into()).await.unwrap_err().to_string();
    assert!(open.contains("not on loopback"), "{open}");
}
