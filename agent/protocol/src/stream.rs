//! Log, exec, attach and port-forward streams.

use codec::{Decode, Encode};

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum StreamRequest {
    /// Log lines on channel 1, without the CRI prefix; ends with [`StreamFrame::Exit`] 0.
    Logs {
        pod_uid: String,
        container: String,
        follow: bool,
        /// The attempt before the present one.
        previous: bool,
        since_ns: Option<u64>,
        tail_lines: Option<u64>,
        limit_bytes: Option<u64>,
        /// Put the time (RFC 3339, nanoseconds) before each line.
        timestamps: bool,
    },
    Exec {
        pod_uid: String,
        container: String,
        command: Vec<String>,
        stdin: bool,
        tty: bool,
    },
    Attach {
        pod_uid: String,
        container: String,
        stdin: bool,
    },
    /// One TCP connection to the pod: channel 0 towards it, 1 from it.
    PortForward {
        pod_uid: String,
        port: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum StreamFrame {
    /// Channel 0 stdin, 1 stdout, 2 stderr; at most 32 KiB.
    Data { channel: u8, bytes: Vec<u8> },
    /// End of file on a channel.
    Close { channel: u8 },
    /// Size of the terminal in characters.
    Resize { width: u16, height: u16 },
    /// Last frame: the process ended, or the log did (code 0).
    Exit { code: i32 },
    /// Last frame: it could not be done. `not_found`: no such pod, container or log.
    Failed { not_found: bool, message: String },
}
