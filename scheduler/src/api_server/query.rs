//! The query of a request.

use api::Status;
use axum::http::Uri;

/// Parameters in the order given; a name may come several times.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(uri: &Uri) -> Result<Self, Status> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        query.map(|query| Self(query.0)).map_err(|error| Status::bad_request(error.to_string()))
    }

    /// The first value; `None` when it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As Go reads booleans; present without a value is true.
    pub fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.all(name).next() {
            None => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(invalid(name, other)),
        }
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        self.get(name).map(|value| value.parse().map_err(|_| invalid(name, value))).transpose()
    }
}

fn invalid(name: &str, value: &str) -> Status {
    Status::bad_request(format!("Invalid value for query parameter {name}: {value:?}"))
}
