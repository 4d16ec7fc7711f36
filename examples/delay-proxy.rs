//! A TCP proxy that delays every byte, to measure on loopback what a long line does:
//! `delay-proxy LISTEN_PORT TARGET_PORT ONE_WAY`, the last as `25ms`. It prints the port that it
//! listens on (0 asks for any free one) and runs until it is killed.

#[path = "../tests/it/harness/proxy.rs"]
mod proxy;

use std::{env, error::Error, thread};

use proxy::Proxy;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, target, one_way] = args.as_slice() else {
        return Err("usage: delay-proxy LISTEN_PORT TARGET_PORT ONE_WAY".into());
    };
    let one_way = humantime::parse_duration(one_way)?;
    let proxy = Proxy::listen(listen.parse()?, target.parse()?, one_way)?;
    println!("{}", proxy.port());
    loop {
        thread::park();
    }
}
