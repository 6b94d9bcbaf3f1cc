//! Answers: JSON, compressed when it pays, and errors as `Status`.

use api::Status;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::io::Write;

/// From here on compressing costs less than sending, as Kubernetes has it.
const GZIP_FROM_BYTES: usize = 128 << 10;

pub type Answer = Response<Body>;

/// A whole JSON document.
pub fn json(code: StatusCode, body: Vec<u8>) -> Answer {
    with_type(code, "application/json", Body::from(body))
}

pub fn value(code: StatusCode, body: &Value) -> Answer {
    json(code, body.to_string().into_bytes())
}

pub fn text(body: &'static str) -> Answer {
    with_type(StatusCode::OK, "text/plain; charset=utf-8", Body::from(body))
}

pub fn with_type(code: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

pub fn status(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = value(code, &status.to_value());
    if status.details.retry_after_s != 0 {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(status.details.retry_after_s));
    }
    answer
}

/// Document bytes, compressed when they are many and the client can read that.
pub fn document(request: &HeaderMap, body: Vec<u8>) -> Answer {
    if body.len() < GZIP_FROM_BYTES || !accepts_gzip(request) {
        return json(StatusCode::OK, body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    let mut answer = json(StatusCode::OK, compressed.expect("writing to memory does not fail"));
    answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    answer
}

pub fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip")
            && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// What form of an object or list a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    Table,
    /// Metadata only.
    Partial,
}

/// The first form in `Accept` that is served; `None` when the client takes none of them.
pub fn form(request: &HeaderMap) -> Option<Form> {
    let accepted: Vec<&str> = request
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    if accepted.is_empty() {
        return Some(Form::Object);
    }
    accepted.into_iter().find_map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next()?;
        if !matches!(media, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parts: Vec<&str> = parts.collect();
        let parameter = |name: &str| parts.iter().find_map(|part| part.strip_prefix(name));
        match (parameter("as="), parameter("g="), parameter("v=")) {
            (None, ..) => Some(Form::Object),
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Form::Table),
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Some(Form::Partial),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated_in_order() {
        for (accept, expected) in [
            ("", Some(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(Form::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf, */*", Some(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Partial)),
            ("application/cbor", None),
        ] {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            }
            assert_eq!(form(&headers), expected, "{accept}");
        }
    }
}
