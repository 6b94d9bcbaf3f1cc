//! SPDY/3.1 frames, as far as port-forwarding uses them: draft-mbelshe-httpbis-spdy-00.
//!
//! Header blocks of one direction are one zlib stream with the protocol's dictionary, so a connection has one
//! [`Codec`] and every header block has to go through it in order.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
const HEAD_BYTES: usize = 8;
/// Longest frame that is accepted; clients send 32 KiB.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Longest header block after decompression.
const HEADERS_BYTES_MAX: usize = 64 << 10;

/// The words of the dictionary, each after its length.
const DICTIONARY_WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,\
    accept-language,accept-ranges,age,allow,authorization,cache-control,connection,content-base,content-encoding,\
    content-language,content-length,content-location,content-md5,content-range,content-type,date,etag,expect,\
    expires,from,host,if-match,if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,\
    max-forwards,pragma,proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,\
    transfer-encoding,upgrade,user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,\
    HTTP/1.1,url,public,set-cookie,keep-alive,origin";
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
    502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
    Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
    image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
        fin: bool,
    },
    Data {
        stream: u32,
        bytes: Vec<u8>,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates and what else needs no answer.
    Other,
}

#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a control frame of version {0}")]
    Version(u16),
    #[error("a frame of type {0} ends early")]
    Short(u16),
    #[error("a header block does not decompress: {0}")]
    Headers(String),
}

/// Both directions of one connection.
pub struct Codec {
    buffer: Vec<u8>,
    inflate: Decompress,
    deflate: Compress,
}

impl Codec {
    pub fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).expect("a fresh stream takes a dictionary");
        Self { buffer: Vec::new(), inflate: Decompress::new(true), deflate }
    }

    /// Takes in received bytes, which may end anywhere in a frame.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(SpdyError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (head, body) = (*head, body.to_vec());
        self.buffer.drain(..HEAD_BYTES + length);
        let fin = head[4] & FIN != 0;
        if head[0] & 0x80 == 0 {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Some(Frame::Data { stream, bytes: body, fin }));
        }
        let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        self.control(u16::from_be_bytes([head[2], head[3]]), &body, fin).map(Some)
    }

    fn control(&mut self, kind: u16, body: &[u8], fin: bool) -> Result<Frame, SpdyError> {
        let id = || {
            let (id, _) = body.split_first_chunk::<4>().ok_or(SpdyError::Short(kind))?;
            Ok::<u32, SpdyError>(u32::from_be_bytes(*id) & 0x7fff_ffff)
        };
        Ok(match kind {
            SYN_STREAM => {
                let block = body.get(10..).ok_or(SpdyError::Short(kind))?;
                Frame::Open { stream: id()?, headers: self.inflate_headers(block)?, fin }
            }
            RST_STREAM => Frame::Reset { stream: id()? },
            PING => Frame::Ping { id: id()? },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }

    fn inflate_headers(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let failed = |why: &dyn std::fmt::Display| SpdyError::Headers(why.to_string());
        let mut plain = Vec::with_capacity(4 << 10);
        loop {
            let before = self.inflate.total_in();
            let done = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.inflate.total_in() - before) as usize..];
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|error| failed(&error))?;
                }
                Err(error) => return Err(failed(&error)),
                Ok(Status::Ok | Status::BufError) if plain.len() == plain.capacity() => {
                    if plain.len() >= HEADERS_BYTES_MAX {
                        return Err(failed(&"it is too long"));
                    }
                    plain.reserve(plain.len());
                }
                Ok(_) => return parse_headers(&plain).ok_or_else(|| failed(&"it is cut off")),
            }
        }
    }

    /// The answer that accepts a stream.
    pub fn accept(&mut self, stream: u32) -> Vec<u8> {
        let mut block = Vec::with_capacity(256);
        let none = 0u32.to_be_bytes();
        let done = self.deflate.compress_vec(&none, &mut block, FlushCompress::Sync);
        done.expect("a block of four bytes fits");
        let mut body = stream.to_be_bytes().to_vec();
        body.extend(block);
        control_frame(SYN_REPLY, &body)
    }
}

pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    assert!(bytes.len() <= FRAME_BYTES_MAX, "nodes send frames of 32 KiB");
    let mut frame = Vec::with_capacity(HEAD_BYTES + bytes.len());
    frame.extend(stream.to_be_bytes());
    frame.extend(((u32::from(fin) << 24) | bytes.len() as u32).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

pub fn pong(id: u32) -> Vec<u8> {
    control_frame(PING, &id.to_be_bytes())
}

fn control_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend((0x8000 | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_423);
    for word in DICTIONARY_WORDS.split(',') {
        bytes.extend((word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    bytes
}

fn parse_headers(plain: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = plain;
    let number = |rest: &mut &[u8]| {
        let (number, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        Some(u32::from_be_bytes(*number) as usize)
    };
    let count = number(&mut rest)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut rest)?;
            let text = String::from_utf8_lossy(rest.get(..length)?).into_owned();
            rest = &rest[length..];
            Some(text)
        };
        headers.push((text()?, text()?));
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's side: what kubectl sends to open a stream.
    fn open(deflate: &mut Compress, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut body = stream.to_be_bytes().to_vec();
        body.extend([0; 6]);
        let mut block = Vec::with_capacity(1 << 10);
        deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("compresses");
        body.extend(block);
        control_frame(SYN_STREAM, &body)
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        let mut stream = Compress::new(Compression::fast(), true);
        assert_eq!(stream.set_dictionary(&dictionary()).expect("takes it"), 0xe3c6_a7c2);
    }

    #[test]
    fn streams_open_whatever_the_pieces() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&dictionary()).expect("takes it");
        let headers = [("streamtype", "error"), ("port", "80"), ("requestid", "0")];
        let mut wire = open(&mut deflate, 1, &headers);
        wire.extend(open(&mut deflate, 3, &headers));
        wire.extend(data(3, b"GET /", false));
        wire.extend(data(1, b"", true));
        wire.extend(pong(5));
        for size in [1, 7, wire.len()] {
            let mut codec = Codec::new();
            let mut frames = Vec::new();
            for piece in wire.chunks(size) {
                codec.push(piece);
                while let Some(frame) = codec.next_frame().expect("is well-formed") {
                    frames.push(frame);
                }
            }
            let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let expected = [
                Frame::Open { stream: 1, headers: headers.clone(), fin: false },
                Frame::Open { stream: 3, headers, fin: false },
                Frame::Data { stream: 3, bytes: b"GET /".to_vec(), fin: false },
                Frame::Data { stream: 1, bytes: Vec::new(), fin: true },
                Frame::Ping { id: 5 },
            ];
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn hostile_frames_are_refused() {
        let mut codec = Codec::new();
        codec.push(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(codec.next_frame(), Err(SpdyError::TooLong(_))));
        let mut codec = Codec::new();
        codec.push(&control_frame(SYN_STREAM, b"\0\0\0\x01\0\0\0\0\0\0not zlib"));
        assert!(matches!(codec.next_frame(), Err(SpdyError::Headers(_))));
        let mut codec = Codec::new();
        codec.push(&control_frame(SYN_STREAM, b"\0\0"));
        assert!(matches!(codec.next_frame(), Err(SpdyError::Short(SYN_STREAM))));
    }
}
