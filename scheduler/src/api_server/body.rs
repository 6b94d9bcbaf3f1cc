//! Bodies of requests: reading them within limits, and decoding JSON, YAML and protobuf.

use api::Status;
use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// Kubernetes' limit on a request.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// How long a client may take to send one.
const BODY_MAX: Duration = Duration::from_secs(60);

/// The whole body.
pub async fn read(body: Body) -> Result<Vec<u8>, Status> {
    let read = timeout(BODY_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_BYTES_MAX}");
            Err(Status::new(413, "RequestEntityTooLarge", message))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("the body ended early: {error}"))),
        Err(_) => Err(Status::new(408, "Timeout", "the body did not arrive in time")),
    }
}

/// The media type without parameters; JSON when there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// An object in any of the encodings that clients send.
pub fn decode(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Status> {
    let object = match media_type(headers) {
        "application/json" => from_json(bytes),
        "application/yaml" => from_yaml(bytes),
        "application/vnd.kubernetes.protobuf" => {
            api::protobuf::decode(bytes).map_err(|error| Status::bad_request(error.to_string()))
        }
        other => Err(unsupported(other)),
    }?;
    if object.is_object() { Ok(object) } else { Err(Status::bad_request("the body is not an object")) }
}

pub fn from_json(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type JSON): {error}"))
    })
}

pub fn from_yaml(bytes: &[u8]) -> Result<Value, Status> {
    let mut options = serde_saphyr::Options::default();
    options.legacy_octal_numbers = true;
    let text = std::str::from_utf8(bytes).map_err(|error| Status::bad_request(error.to_string()))?;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))
}

pub fn unsupported(media_type: &str) -> Status {
    let message = format!(
        "the body of the request was in an unknown format ({media_type}) - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    Status::new(415, "UnsupportedMediaType", message)
}
