//! Who may write, from where; and how many may connect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use harness::http::Http;
use harness::netns::{Netns, UPLINK};
use hyper::Request;

use super::{Plane, mesh_service, mesh_service_path, refused};

/// Connections at once, as the API says.
const MAX_CONNECTIONS: usize = 512;

#[test]
fn another_machine_reads_and_does_not_write() {
    let mut plane = Plane::start();
    let outside = Arc::new(Netns::new().unwrap());
    plane.place.netns().join(&outside, UPLINK).unwrap();
    let address = |text: &str| (text.parse().unwrap(), 24);
    plane.place.netns().add_addresses(UPLINK, &[address("192.0.2.1")]).unwrap();
    outside.add_addresses(UPLINK, &[address("192.0.2.2")]).unwrap();
    let mut http = Http::new(outside, "192.0.2.1:5681".parse().unwrap()).unwrap();
    assert_eq!(http.get("/meshservices").unwrap().json()["total"], 0);
    assert_eq!(http.get("/who-am-i").unwrap().json()["name"], "mesh-system:anonymous");
    let path = mesh_service_path("redis");
    let refusal = http.put(&path, &mesh_service("redis", 1)).unwrap();
    assert!(refused(&refusal, 401).1.contains("192.0.2.2 is another machine"));
    assert_eq!(refusal.header("www-authenticate"), "Bearer");
    assert!(refused(&http.delete(&path).unwrap(), 401).1.contains("another machine"));
    assert_eq!(plane.get(&path).status, 404);
}

#[test]
fn a_page_in_a_browser_of_this_machine_does_not_write() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    let mut send = |method: &str, headers: &[(&str, &str)]| {
        let mut request =
            Request::builder().method(method).uri(&path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        plane.http.send(request.body(mesh_service("redis", 1).to_string().into()).unwrap()).unwrap()
    };
    for headers in [
        &[("host", "rebound.example:5681")][..],
        &[("origin", "http://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("x-forwarded-for", "192.0.2.7")],
    ] {
        refused(&send("PUT", headers), 401);
        refused(&send("DELETE", headers), 401);
    }
    // What a page may send to another site unasked is no resource.
    refused(&send("PUT", &[("authorization", "Bearer made-up")]), 401);
    assert_eq!(send("PUT", &[("origin", "http://127.0.0.1:5681")]).status, 201);
}

/// What one connection is answered, to its end.
fn ask(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn connections_beyond_the_limit_are_told_so_and_those_before_it_are_served() {
    let plane = Plane::start();
    let server: SocketAddr = "127.0.0.1:5681".parse().unwrap();
    let connect = || plane.place.netns().run(|| TcpStream::connect(server)).unwrap();
    let mut open: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
    let refusal = ask(&connect());
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("512 connections are open"), "{refusal}");
    assert!(refusal.to_ascii_lowercase().contains("connection: close"), "{refusal}");
    assert!(ask(&open[0]).starts_with("HTTP/1.1 200"));
    open.clear();
    harness::wait::wait_until(super::SECS, "room again", || ask(&connect()).starts_with("HTTP/1.1 200"));
}

#[test]
fn with_tls_it_is_served_on_5682_with_a_certificate_of_our_own_authority() {
    let plane = Plane::start_with(&["--dp-server-address", "0.0.0.0"]);
    let printed = plane.place.output(&["--dp-server-address", "0.0.0.0", "--print-ca"], &[]).unwrap();
    let ca = plane.place.write("ca.pem", std::str::from_utf8(&printed.stdout).unwrap()).unwrap();
    let ask = |args: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"]).args(args);
        let output = plane.place.netns().run(|| curl.output()).unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (good, said) = ask(&["--cacert", &ca, "https://127.0.0.1:5682/meshes?size=1&name=default"]);
    assert!(good && said.contains("\"total\":1"), "{said}\n{}", plane.process.said());
    let path = "https://127.0.0.1:5682/meshes/default/meshservices/redis";
    let body = mesh_service("redis", 1).to_string();
    let (good, said) =
        ask(&["--cacert", &ca, "-X", "PUT", "-H", "content-type: application/json", "-d", &body, path]);
    assert_eq!((good, said.as_str()), (true, "{}"));
    let (trusted, said) = ask(&["https://127.0.0.1:5682/meshes"]);
    assert!(!trusted && said.contains("certificate"), "nobody trusts it unasked: {said}");
}
