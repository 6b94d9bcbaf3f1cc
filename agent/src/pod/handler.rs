//! What probes and lifecycle hooks do: run a command in the container, ask over HTTP, open a connection, wait.

mod http;

use agent_protocol::Handler;
use http::Get;
use runtime_protocol::{Exec, Open, StreamFrame};
use std::{net::Ipv4Addr, path::Path, time::Duration};
use tokio::net::TcpStream;

/// Most of a command's output that a message repeats.
const SAID_BYTES_MAX: usize = 10 << 10;

/// Runs the handler against a run of a container; the error is what an Event says.
///
/// - `monitor_dir`: directory of the pod's monitor. `run`: name of the run. `pod`: the pod's address.
pub async fn run(
    handler: &Handler,
    monitor_dir: &Path,
    run: &str,
    pod: Option<Ipv4Addr>,
    limit: Duration,
) -> Result<(), String> {
    let timed_out = || format!("timed out after {} s", limit.as_secs());
    let pod_host = || pod.map_or_else(|| Ipv4Addr::LOCALHOST.to_string(), |address| address.to_string());
    let host = |given: &str| if given.is_empty() { pod_host() } else { given.to_owned() };
    match handler {
        Handler::Sleep { seconds } => {
            tokio::time::sleep(Duration::from_secs(u64::from(*seconds)).min(limit)).await;
            Ok(())
        }
        Handler::Exec { command } => {
            let ended = tokio::time::timeout(limit, exec(monitor_dir, run, command))
                .await
                .map_err(|_| format!("command timed out: {}", timed_out()))?;
            match ended? {
                (0, _) => Ok(()),
                (_, output) => Err(output),
            }
        }
        Handler::Tcp { host: given, port } => {
            let address = format!("{}:{port}", host(given));
            let connected = tokio::time::timeout(limit, TcpStream::connect(&address))
                .await
                .map_err(|_| format!("dial tcp {address}: {}", timed_out()))?;
            connected.map(drop).map_err(|err| format!("dial tcp {address}: {err}"))
        }
        Handler::Http { host: given, port, path, tls, headers } => {
            let host = host(given);
            let url = format!("{}://{host}:{port}{path}", if *tls { "https" } else { "http" });
            let get = Get { host: &host, port: *port, path, tls: *tls, headers };
            let asked = tokio::time::timeout(limit, get.status()).await;
            let status = asked
                .map_err(|_| format!("Get \"{url}\": {}", timed_out()))?
                .map_err(|err| format!("Get \"{url}\": {err}"))?;
            if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(format!("HTTP probe failed with statuscode: {status}"))
            }
        }
        Handler::Grpc { port, .. } => {
            Err(format!("grpc handler on port {port}: this node's agent does not speak gRPC"))
        }
    }
}

/// Runs a command without input; its exit code and what it said.
async fn exec(monitor_dir: &Path, run: &str, command: &[String]) -> Result<(i32, String), String> {
    let exec = Exec { container: run.to_owned(), args: command.to_vec(), tty: false, stdin: false };
    let mut stream =
        crate::monitor::stream(monitor_dir, &Open::Exec(exec)).await.map_err(|err| err.to_string())?;
    let mut said = Vec::new();
    loop {
        match codec::aio::read_frame::<StreamFrame>(&mut stream).await.map_err(|err| err.to_string())? {
            StreamFrame::Data { bytes, .. } if said.len() < SAID_BYTES_MAX => said.extend(bytes),
            StreamFrame::Exit(exit) => {
                return Ok((exit.code, String::from_utf8_lossy(&said).trim_end().to_owned()));
            }
            StreamFrame::Failed { message, .. } => return Err(message),
            _ => {}
        }
    }
}
