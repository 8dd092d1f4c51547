//! The tests' own client. It runs inside the mesh (`kuma-dns exec -- client …`) and asks the system calls that tests are
//! about, which no ready-made tool shows. Called by the tests up and load.

mod ask;
mod load;
mod watch;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // Each target is `<service>,<VIP>`; prints one line of counts.
        ["load", threads, connections, ref targets @ ..] => {
            load::run(threads.parse()?, connections.parse()?, targets)
        }
        // Prints a line at each change of what the name and its VIP do, until standard input ends.
        ["watch", name] => watch::run(name),
        _ => bail!("usage: client load THREADS CONNECTIONS SERVICE,VIP… | client watch NAME"),
    }
}
