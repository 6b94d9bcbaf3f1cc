//! The web server of the first example: one page that says which pod serves it.
//!
//! `PORT` (8080) to listen on; `GREETING` for the headline. `/healthz` answers `ok`. SIGTERM: no connection is accepted any more, those that are
//! open are answered, then it ends.
#![forbid(unsafe_code)]

use nix::sys::signal::{SigSet, Signal};
use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

const THREADS: usize = 4;
const REQUEST_BYTES_MAX: usize = 16 << 10;
const IDLE: Duration = Duration::from_secs(10);
/// How long the other ends may take to finish once we are asked to end.
const DRAIN_STEPS: u32 = 100;
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Requests in progress, and whether to end.
#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    ending: AtomicBool,
}

fn main() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().expect("signals can be blocked");
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080u16);
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap_or_else(|err| {
        eprintln!("listen on port {port}: {err}");
        exit(1)
    });
    println!("listening on port {port}");
    let shared = Arc::new(Shared::default());
    for _ in 0..THREADS {
        let (listener, shared) = (listener.try_clone().expect("a socket can be cloned"), shared.clone());
        thread::spawn(move || serve(&listener, &shared));
    }
    drop(listener);
    // As pid 1 of a container, a signal without a waiter would have no effect.
    let signal = signals.wait().expect("signals can be waited for");
    println!("{signal}: finishing {} requests", shared.open.load(Ordering::SeqCst));
    shared.ending.store(true, Ordering::SeqCst);
    for _ in 0..DRAIN_STEPS {
        if shared.open.load(Ordering::SeqCst) == 0 {
            break;
        }
        thread::park_timeout(DRAIN_STEP);
    }
}

fn serve(listener: &TcpListener, shared: &Shared) {
    for stream in listener.incoming().flatten() {
        shared.open.fetch_add(1, Ordering::SeqCst);
        if let Err(err) = answer(stream, shared) {
            eprintln!("request: {err}");
        }
        shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers requests until the client closes or we are to end.
fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let len = match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            request.extend_from_slice(&buffer[..len]);
            if request.len() > REQUEST_BYTES_MAX {
                return stream
                    .write_all(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n");
            }
        }
        let head = String::from_utf8_lossy(&request).into_owned();
        request.clear();
        let line = head.lines().next().unwrap_or_default();
        let path = line.split(' ').nth(1).unwrap_or("/");
        let (kind, body) = if path == "/healthz" {
            ("text/plain", "ok\n".to_owned())
        } else {
            ("text/html; charset=utf-8", page())
        };
        if path != "/healthz" {
            println!(
                "{line} from {}",
                stream.peer_addr().map_or_else(|err| err.to_string(), |peer| peer.to_string())
            );
        }
        let asked = head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "") == "connection:close");
        let close = asked || head.contains("HTTP/1.0") || shared.ending.load(Ordering::SeqCst);
        let connection = if close { "close" } else { "keep-alive" };
        let len = body.len();
        let reply = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: {connection}\r\n\r\n{body}"
        );
        stream.write_all(reply.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}

fn page() -> String {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let row =
        |(name, value): (&str, String)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(&value));
    let rows: String = [("pod", Some(host)), ("address", env::var("POD_IP").ok())]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| row((name, value))))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<title>{0}</title>\n<style>body{{font:1.1em sans-serif;margin:4em auto;max-width:30em}}\
         th{{text-align:left;padding-right:1em}}</style>\n<h1>{0}</h1>\n<table>\n{rows}</table>\n</html>\n",
        escape(&greeting)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
