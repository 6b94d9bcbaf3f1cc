//! Talking to the agent of this host over its socket, without the API server.

use crate::error::{CtlError, failed};
use agent_protocol::{LocalReply, LocalRequest, MAGIC, StreamFrame, VERSIONS};
use std::{io::Read, os::unix::net::UnixStream, path::Path};

/// Bytes of standard input in one frame.
const CHUNK_BYTES: usize = 256 << 10;

/// A connection that has carried its one request.
pub struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// Sends `request` to the agent behind `<run_dir>/agent.sock`.
    pub fn ask(run_dir: &Path, request: &LocalRequest) -> Result<Self, CtlError> {
        let path = run_dir.join("agent.sock");
        let unreachable = |why: String| {
            failed(format!("no agent answers at {}: {why}; `ctl up` starts it", path.display()))
        };
        let mut stream = UnixStream::connect(&path).map_err(|err| unreachable(err.to_string()))?;
        codec::exchange(&mut stream, MAGIC, &VERSIONS).map_err(|err| unreachable(err.to_string()))?;
        codec::write_frame(&mut stream, request).map_err(|err| unreachable(err.to_string()))?;
        Ok(Self { stream })
    }

    /// The next reply.
    pub fn reply(&mut self) -> Result<LocalReply, CtlError> {
        codec::read_frame(&mut self.stream).map_err(|err| failed(format!("the agent hung up: {err}")))
    }

    /// Sends everything of `input`, then its end. An agent that stops listening says why in its reply.
    pub fn send(&mut self, mut input: impl Read) -> Result<(), CtlError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = input.read(&mut buffer).map_err(|err| failed(format!("standard input: {err}")))?;
            let frame = match count {
                0 => StreamFrame::Close { channel: 0 },
                _ => StreamFrame::Data { channel: 0, bytes: buffer[..count].to_vec() },
            };
            codec::write_frame(&mut self.stream, &frame)
                .map_err(|err| failed(format!("the agent hung up: {err}")))?;
            if count == 0 {
                return Ok(());
            }
        }
    }
}
