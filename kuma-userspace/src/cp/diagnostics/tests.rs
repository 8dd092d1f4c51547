//! What is shown, from statuses made by hand.

use super::*;
use crate::cp::dns::Counted;
use crate::cp::status::{Pool, Replica};
use crate::cp::xds;

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn xds() -> xds::StatusReader {
    xds::Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn metrics_say_what_the_statuses_say() {
    let pool =
        Pool { range: "240.0.0.0/4".into(), of: "dnsServer", size: "268435456".into(), held: 3, resting: 2 };
    let status = Status {
        services: 5,
        published: 4,
        starving_count: 1,
        pools: vec![pool],
        replica: Some(Replica::Leader { epoch: 7 }),
        ..Status::default()
    };
    let (_sender, status) = watch::channel(status);
    let meters = Meters::default();
    meters.published(std::time::Duration::from_millis(3));
    let page = Page { ready: Ready::default(), sources: Late::default() };
    let sources = Sources { status, xds: xds().await, dns: Counted::default(), meters };
    Entry(page.sources.clone()).enter(sources);
    let text = text(metrics(State(page)).await).await;
    for line in [
        "kuma_dns_ready 1",
        "kuma_dns_services{state=\"wanted\"} 5",
        "kuma_dns_services{state=\"published\"} 4",
        "kuma_dns_starving_addresses 1",
        "kuma_dns_pool_size_addresses{pool=\"dnsServer\",range=\"240.0.0.0/4\"} 268435456.0",
        "kuma_dns_pool_held_addresses{pool=\"dnsServer\",range=\"240.0.0.0/4\"} 3.0",
        "kuma_dns_leader 1",
        "kuma_dns_leader_epoch 7",
        "kuma_dns_store_up 1",
        "kuma_dns_publication_duration_seconds_count 1",
        "kuma_dns_publication_duration_seconds_bucket{le=\"0.004\"} 1",
        "kuma_dns_store_failures_total 0",
        "# TYPE process_resident_memory_bytes gauge",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn ready_says_what_is_awaited_and_since_when() {
    let page = Page { ready: Ready::default(), sources: Late::default() };
    let awaited = page.ready.wait_for("the VIPs");
    let response = super::ready(State(page.clone())).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(response).await, r#"{"awaited":[{"sinceSecs":0,"what":"the VIPs"}],"ready":false}"#);
    drop(awaited);
    let response = super::ready(State(page.clone())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        text(metrics(State(page)).await).await.contains("\nkuma_dns_ready 1\n"),
        "before there are sources"
    );
}
