//! Tokens: who shows a good one is let in, everybody else is told why not; and who is given one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::ensure;
use harness::binaries;
use harness::process::Process;
use harness::xds::{Agent, Door, Envoy, anywhere, eventually, in_own_netns};
use kuma_dns::agent::feed::FeedStatus;
use kuma_dns::wire::access::{Access, Token, Trust};
use tempfile::TempDir;

use super::{printed_ca, started};

/// `kuma-dns generate` with these arguments.
fn generated(dir: &Path, args: &str) -> anyhow::Result<String> {
    let output = client(dir, &format!("generate {args}"))?;
    ensure!(output.status.success(), "{args}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command of the client in `dir`.
fn client(dir: &Path, args: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(binaries::kuma_dns()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
        command.env_remove(name);
    }
    Ok(command.current_dir(dir).args(args.split(' ')).output()?)
}

/// Runs a command that is refused with these words.
fn not_allowed(dir: &Path, args: &str, words: &str) -> anyhow::Result<()> {
    let output = client(dir, args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(4) && said.contains(words), "{args}: {output:?}");
    ensure!(output.stdout.is_empty(), "{args}: {output:?}");
    Ok(())
}

/// A control plane that believes tokens signed with `key.pem` as kid "key" for mesh default.
async fn started_with_key(dir: &Path) -> anyhow::Result<(Process, Trust)> {
    std::fs::write(dir.join("key.pem"), generated(dir, "signing-key")?)?;
    std::fs::write(dir.join("key.pub"), generated(dir, "public-key --signing-key-path key.pem")?)?;
    let config = dir.join("cp.yaml");
    let key = dir.join("key.pub");
    let keys = format!("[{{mesh: default, kid: key, keyFile: {}}}]", key.display());
    std::fs::write(
        &config,
        format!(
            "dpServer: {{address: 0.0.0.0, authn: {{dpProxy: {{dpToken: {{validator: {{publicKeys: {keys}}}}}}}}}}}\n"
        ),
    )?;
    let process = started(dir, &["-c", &config.display().to_string()]).await?;
    Ok((process, Trust::parse(&printed_ca(dir)?)?))
}

/// The reason why an agent is not served.
async fn refusal(agent: &Agent) -> anyhow::Result<String> {
    eventually(20, "the agent is refused", || {
        std::future::ready(match &*agent.status.borrow() {
            FeedStatus::Disconnected { reason } if reason.contains("token") => Ok(reason.clone()),
            other => Err(anyhow::anyhow!("{other:?}")),
        })
    })
    .await
}

#[test]
fn envoy_and_agents_with_a_token_are_served_and_every_other_token_is_refused_in_words() {
    in_own_netns(|| async {
        let dir = TempDir::new()?;
        let (process, trust) = started_with_key(dir.path()).await?;
        let control_plane = SocketAddr::from((Ipv4Addr::LOCALHOST, 5678));
        let door = |token: Option<&str>| -> anyhow::Result<Door> {
            let token = token.map(Token::parse).transpose()?;
            Ok(Door { control_plane, access: Access { trust: Some(trust.clone()), token } })
        };
        let make = |args: &str| {
            let signing = "--signing-key-path key.pem --kid key";
            generated(dir.path(), &format!("dataplane-token --valid-for 1h {args} {signing}"))
        };
        let good = make("--mesh default")?;
        let agent = Agent::start_at(door(Some(&good))?, "agent");
        let envoy = Envoy::start_at(door(Some(&good))?, "proxy", 15001, 9901, anywhere())?;
        eventually(20, "the agent's view", || {
            std::future::ready(match agent.routes() {
                Some(2) => Ok(()),
                other => Err(anyhow::anyhow!("{other:?} routes\n{}", process.said())),
            })
        })
        .await?;
        let named = Agent::start_at(door(Some(&make("--name web-1")?))?, "default.web-1");
        eventually(20, "the one that the token names", || {
            std::future::ready(named.routes().map(|_| ()).ok_or_else(|| anyhow::anyhow!("no view")))
        })
        .await?;

        std::fs::write(dir.path().join("other.pem"), generated(dir.path(), "signing-key")?)?;
        let forged =
            generated(dir.path(), "dataplane-token --valid-for 1h --signing-key-path other.pem --kid key")?;
        let unknown =
            generated(dir.path(), "dataplane-token --valid-for 1h --signing-key-path key.pem --kid other")?;
        for (token, reason) in [
            (None, "a dataplane token is needed: `kuma-dns generate dataplane-token --mesh default`"),
            (Some(make("--mesh b")?), "it is for mesh \"b\", and not for \"default\""),
            (Some(forged), "its signature is wrong"),
            (Some(unknown), "signing key \"other\" is not known here"),
            (Some(make("--name web-2")?), "it is for proxy \"web-2\", and node id \"stranger\" is not its"),
            (Some(make("--tag kuma.io/service=web")?), "has no Dataplane that node id \"stranger\" names"),
            (Some("hello".into()), "it is no token that is signed with RS256"),
        ] {
            let agent = Agent::start_at(door(token.as_deref())?, "stranger");
            let said = refusal(&agent).await?;
            ensure!(said.contains(reason), "{reason:?} is missing in {said:?}");
            ensure!(process.said().contains("an xDS client is refused"), "{}", process.said());
        }
        // A real Envoy without a token gets nothing: what it asks for next is refused as well.
        let plain = Envoy::start_at(door(None)?, "plain", 16001, 9902, anywhere())?;
        eventually(20, "the Envoy without a token is refused", || {
            let said = process.said();
            let refused =
                said.lines().any(|line| line.contains("refused") && line.contains("node=\"plain\""));
            std::future::ready(if refused { Ok(()) } else { Err(anyhow::anyhow!("{said}")) })
        })
        .await?;
        plain.stop().await?;
        envoy.stop().await
    });
}

const MESH_SERVICE: &str = "\
{type: MeshService, mesh: default, name: redis, spec: {selector: {dataplaneTags: {app: redis}}, ports: [{port: 6379}]}}
";

#[test]
fn a_control_plane_gives_tokens_over_its_api_which_agents_and_admins_are_known_by() {
    in_own_netns(|| async {
        let dir = TempDir::new()?;
        let dir = dir.path();
        std::fs::write(dir.join("redis.yaml"), MESH_SERVICE)?;
        let mut process = started(dir, &["--dp-server-address", "0.0.0.0"]).await?;
        let trust = Trust::parse(&printed_ca(dir)?)?;
        let admin = generated(dir, "admin-token")?;
        ensure!(generated(dir, "admin-token")? == admin, "it is kept");
        std::fs::write(dir.join("admin"), &admin)?;
        std::fs::write(dir.join("guest"), generated(dir, "user-token --name guest --valid-for 1h")?)?;
        let token = generated(dir, "dataplane-token --mesh default --name web-1 --valid-for 1h")?;
        let control_plane = SocketAddr::from((Ipv4Addr::LOCALHOST, 5678));
        let door = |id: &str| -> anyhow::Result<Agent> {
            let access = Access { trust: Some(trust.clone()), token: Some(Token::parse(&token)?) };
            Ok(Agent::start_at(Door { control_plane, access }, id))
        };
        let (agent, stranger) = (door("default.web-1")?, door("stranger")?);
        eventually(20, "the agent that the token names is let in", || {
            std::future::ready(match &*agent.status.borrow() {
                FeedStatus::Disconnected { reason } => Err(anyhow::anyhow!("{reason}")),
                _ if process.said().contains("an xDS client is refused") => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            })
        })
        .await?;
        let said = refusal(&stranger).await?;
        ensure!(said.contains("it is for proxy \"web-1\""), "{said}");
        drop((agent, stranger));
        ensure!(process.terminate()?.code() == Some(0), "{}", process.said());

        std::fs::write(dir.join("cp.yaml"), "apiServer: {authn: {localhostIsAdmin: false}}\n")?;
        let config = dir.join("cp.yaml").display().to_string();
        let _strict = started(dir, &["-c", &config]).await?;
        not_allowed(dir, "apply -f redis.yaml", "localhostIsAdmin is false")?;
        not_allowed(dir, "generate dataplane-token --valid-for 1h", "localhostIsAdmin is false")?;
        not_allowed(dir, "generate user-token --name x --valid-for 1h", "localhostIsAdmin is false")?;
        not_allowed(dir, "generate admin-token", "localhostIsAdmin is false")?;
        not_allowed(dir, "apply -f redis.yaml --token-file guest", "\"guest\" is not in the group")?;
        not_allowed(dir, "generate admin-token --token-file guest", "\"guest\" is not in the group")?;
        let output = client(dir, "apply -f redis.yaml --token-file admin")?;
        ensure!(output.status.success(), "{output:?}");
        generated(dir, "dataplane-token --valid-for 1h --token-file admin")?;
        let output = client(dir, "get meshservices redis")?;
        ensure!(output.status.success(), "reading needs no token: {output:?}");
        Ok(())
    });
}

#[test]
fn a_stream_ends_when_its_token_expires() {
    in_own_netns(|| async {
        let dir = TempDir::new()?;
        let (_process, trust) = started_with_key(dir.path()).await?;
        let signing = "--signing-key-path key.pem --kid key";
        let token = generated(dir.path(), &format!("dataplane-token --valid-for 6s {signing}"))?;
        let access = Access { trust: Some(trust), token: Some(Token::parse(&token)?) };
        let door = Door { control_plane: (Ipv4Addr::LOCALHOST, 5678).into(), access };
        let agent = Agent::start_at(door, "agent");
        eventually(5, "it is connected while the token is good", || {
            std::future::ready(match &*agent.status.borrow() {
                FeedStatus::Waiting => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            })
        })
        .await?;
        let said = refusal(&agent).await?;
        ensure!(said.contains("expired"), "{said}");
        Ok(())
    });
}
