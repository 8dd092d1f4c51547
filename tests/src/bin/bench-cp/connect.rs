//! An application that waits for a service: runs inside the mesh, connects to a VIP until a backend answers through the proxy.
//! Called by system, through `kuma-dns exec`.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two tries.
const REST: Duration = Duration::from_millis(1);
/// How long a try may take, and how long all of them.
const TRY: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(30);

/// Answers each line with a VIP by `ok` as soon as it answers.
pub(crate) fn answer() -> Result<()> {
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let vip: SocketAddr = line?.parse().context("a line is an address with a port")?;
        let begin = Instant::now();
        while !answers(vip) {
            if begin.elapsed() > DEADLINE {
                bail!("{vip} does not answer within {} s", DEADLINE.as_secs());
            }
            std::thread::sleep(REST);
        }
        say("ok")?;
    }
    Ok(())
}

fn answers(vip: SocketAddr) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&vip, TRY)?;
        stream.set_read_timeout(Some(TRY))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut first = [0; 12];
        stream.read_exact(&mut first)?;
        Ok(&first == b"HTTP/1.1 200")
    };
    asked().unwrap_or(false)
}

fn say(word: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{word}").and_then(|()| stdout.flush()).context("nobody reads our stdout")
}
