//! The gRPC face of the server: delta streams, and those of the state of the world. Called by tonic.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::admission::{Admission, Pass};
use super::board::Board;
use super::session::Session;
use super::sotw;
use super::stream::{self, Door};
use crate::rt::Drain;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Service {
    board: Arc<Board>,
    admission: Admission,
    drain: Drain,
}

impl Service {
    pub(super) fn new(board: Arc<Board>, admission: Admission, drain: Drain) -> Self {
        Self { board, admission, drain }
    }

    fn door<T>(&self, request: &Request<T>) -> Door {
        let pass = Pass::new(request.metadata(), request.remote_addr());
        Door { admission: self.admission.clone(), pass, drain: self.drain.clone() }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let door = self.door(&request);
        let answers = stream::serve::<sotw::Session>(self.board.clone(), request.into_inner(), door);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let door = self.door(&request);
        let answers = stream::serve::<Session>(self.board.clone(), request.into_inner(), door);
        Ok(Response::new(Box::pin(answers)))
    }
}
