//! Envoy's admin interface: what it has taken, and how often what happened. Part of xds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long it may take to answer.
const ADMIN_LIMIT: Duration = Duration::from_secs(10);

/// The admin interface of an Envoy, whoever started it.
pub struct Admin(pub SocketAddr);

impl Admin {
    /// Asks the admin interface.
    ///
    /// # Errors
    /// It does not answer, or not with 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        let ask = async {
            let mut stream = TcpStream::connect(self.0).await?;
            stream
                .write_all(
                    format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes(),
                )
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer =
            tokio::time::timeout(ADMIN_LIMIT, ask).await.context("Envoy's admin does not answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        if head.contains("transfer-encoding: chunked") { unchunked(body) } else { Ok(body.to_owned()) }
    }

    /// Its dynamic listeners by name, with the version that is active.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn listeners(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.active("dynamic_listeners", |listener| {
            let version = listener["active_state"]["version_info"].as_str()?;
            Some((listener["name"].as_str()?.to_owned(), version.to_owned()))
        })
        .await
    }

    /// Its dynamic clusters by name, with the version that is active.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn clusters(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.active("dynamic_active_clusters", |cluster| {
            Some((
                cluster["cluster"]["name"].as_str()?.to_owned(),
                cluster["version_info"].as_str()?.to_owned(),
            ))
        })
        .await
    }

    async fn active(
        &self,
        resource: &str,
        read: impl Fn(&serde_json::Value) -> Option<(String, String)>,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let dump: serde_json::Value =
            serde_json::from_str(&self.get(&format!("/config_dump?resource={resource}")).await?)?;
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        Ok(configs.iter().filter_map(read).collect())
    }

    /// One counter or gauge.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.get("/stats").await?;
        let Some(value) = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")) else {
            bail!("no stat {name}");
        };
        Ok(value.trim().parse()?)
    }
}

/// A body without the sizes of its chunks (RFC 9112 section 7.1).
fn unchunked(mut body: &str) -> anyhow::Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk without size")?;
        let size = usize::from_str_radix(size, 16)?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk that is cut")?);
        body = rest.get(size + 2..).context("a chunk without end")?;
    }
}
