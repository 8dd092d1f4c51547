//! Clients of the xDS server that cost next to nothing: they take what comes, acknowledge it, and say which resources it was.
//! Called by system (a proxy that stands in for Envoy) and fan_out (a thousand agents).

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kuma_dns::model::view::Port;
use kuma_dns::wire::node::{Introduction, Role};
use kuma_dns::wire::resource::ResourceType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Where a control plane serves xDS.
const XDS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5678);
/// Requests on their way.
const QUEUE: usize = 16;

/// A stream of its own on a connection of its own.
pub(crate) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    /// Subscribes: a proxy to all clusters and listeners, an agent to the view `default`.
    pub(crate) async fn connect(id: &str, role: Role) -> Result<Self> {
        let view = "default".to_owned();
        let introduction =
            Introduction { id: id.into(), role, view: view.clone(), outbound_port: Port::new(15001) };
        let wanted = match role {
            Role::Proxy => {
                vec![(ResourceType::Cluster, "*".to_owned()), (ResourceType::Listener, "*".to_owned())]
            }
            Role::Agent => vec![(ResourceType::MeshView, view)],
        };
        let (requests, outgoing) = mpsc::channel(QUEUE);
        for (number, (kind, name)) in wanted.into_iter().enumerate() {
            let node = (number == 0).then(|| introduction.write());
            let type_url = kind.url().to_owned();
            let request = DeltaDiscoveryRequest {
                node,
                type_url,
                resource_names_subscribe: vec![name],
                ..Default::default()
            };
            requests.send(request).await.context("the queue is long enough")?;
        }
        let channel =
            Endpoint::from_shared(format!("http://{XDS}"))?.connect().await.context("nobody serves xDS")?;
        let client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut client = client;
        let answers = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Takes the next answer and acknowledges it; gives the names of what it brings.
    pub(crate) async fn next(&mut self) -> Result<Vec<String>> {
        let answer = self.answers.message().await?.context("the control plane ended the stream")?;
        let DeltaDiscoveryResponse { type_url, nonce, resources, .. } = answer;
        let ack = DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        self.requests.send(ack).await.context("the control plane ended the stream")?;
        Ok(resources.into_iter().map(|resource| resource.name).collect())
    }
}
