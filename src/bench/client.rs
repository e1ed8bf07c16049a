//! A client of an OpenAI-compatible server: JSON goes out, JSON or a stream of events comes back.
//!
//! Every request has a connection of its own, closed with it: the server sees as many clients as
//! there are streams. Plain HTTP only; a proxy can speak TLS.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::events::{EventBuffer, TooLong};

/// The most that is read of an answer which is no stream.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The most that is repeated of an answer which is a failure.
const MAX_SHOWN_CHARS: usize = 300;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address that this client can speak to.
    #[error("{0:?} is no address of a server: use http://HOST:PORT")]
    Address(String),
    /// A key that cannot stand in a header.
    #[error("the API key holds characters that no header can hold")]
    Key,
    /// Nobody listens there.
    #[error("no server answers on {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, or was no HTTP.
    #[error("the exchange with the server broke off: {0}")]
    Http(#[from] hyper::Error),
    /// The body broke off or was too long.
    #[error("the server's answer cannot be read: {0}")]
    Body(String),
    /// The server refused or failed.
    #[error("{path} was answered with {status}: {body}")]
    Status {
        /// What was asked for.
        path: String,
        /// The answer's status.
        status: u16,
        /// How its body begins.
        body: String,
    },
    /// An answer of another form than OpenAI documents.
    #[error("{path} was answered with something unexpected: {problem}")]
    Unexpected {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A line without end.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Where the server is and how it knows us.
#[derive(Debug, Clone)]
pub struct Client {
    authority: String,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client of the server at `url`: `http://HOST:PORT`, with or without the `/v1` that other
    /// clients want there.
    ///
    /// # Errors
    /// Where the address is none of plain HTTP, or the key cannot be sent.
    pub fn new(url: &str, api_key: Option<&str>) -> Result<Self, ClientError> {
        let invalid = || ClientError::Address(url.to_owned());
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| invalid())?;
        let fits = uri.scheme_str() == Some("http") && ["", "/", "/v1"].contains(&uri.path());
        let host = uri.host().filter(|_| fits).ok_or_else(invalid)?;
        let bearer = |key: &str| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let authorization = match api_key {
            Some(key) => Some(bearer(key).ok_or(ClientError::Key)?),
            None => None,
        };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { authority, authorization })
    }

    /// Gets JSON.
    ///
    /// # Errors
    /// Where there is no answer, or none that is a success and JSON.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        json(path, self.send(Method::GET, path, Vec::new()).await?).await
    }

    /// Posts JSON and gets JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        json(path, self.send(Method::POST, path, body.to_string().into_bytes()).await?).await
    }

    /// Posts JSON and gets a stream of events.
    ///
    /// # Errors
    /// Where there is no answer, or none that is a success.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Events, ClientError> {
        let response = self.send(Method::POST, path, body.to_string().into_bytes()).await?;
        Ok(Events { body: response.into_body(), buffer: EventBuffer::default() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connected = async {
            let stream = TcpStream::connect(&self.authority).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let refused = |source| ClientError::Connect { address: self.authority.clone(), source };
        let stream = connected.await.map_err(refused)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the body, or where either is dropped; a failure shows in the body too.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| {
            ClientError::Unexpected { path: path.to_owned(), problem: error.to_string() }
        })?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = String::from_utf8_lossy(&whole(response).await?)
            .chars()
            .take(MAX_SHOWN_CHARS)
            .collect();
        Err(ClientError::Status { path: path.to_owned(), status, body })
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Body(error.to_string()))
}

async fn json(path: &str, response: Response<Incoming>) -> Result<Value, ClientError> {
    serde_json::from_slice(&whole(response).await?).map_err(|error| ClientError::Unexpected {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// An answer that comes in pieces. Dropping it hangs up.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: EventBuffer,
}

impl Events {
    /// The events that the next piece of the answer completes, maybe none; `None` at its end.
    ///
    /// # Errors
    /// Where the connection breaks or the stream is none.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, ClientError> {
        let Some(frame) = self.body.frame().await else { return Ok(None) };
        match frame?.into_data() {
            Ok(piece) => Ok(Some(self.buffer.push(&piece)?)),
            // Trailers.
            Err(_) => Ok(Some(Vec::new())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_plain_http_are_taken() {
        let authority = |url: &str| Client::new(url, None).ok().map(|client| client.authority);
        for (url, expected) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://127.0.0.1:8000/", "127.0.0.1:8000"),
            ("http://example.org/v1/", "example.org:80"),
            ("http://[::1]:81/v1", "[::1]:81"),
        ] {
            assert_eq!(authority(url).as_deref(), Some(expected), "{url}");
        }
        for url in ["", "localhost:8000", "https://localhost", "http://host/v2", "http://", "/v1"] {
            assert_eq!(authority(url), None, "{url}");
        }
    }

    #[test]
    fn a_key_is_sent_but_never_shown() {
        let client = Client::new("http://localhost", Some("secret")).unwrap();
        assert_eq!(client.authorization.as_ref().unwrap(), "Bearer secret");
        assert!(!format!("{client:?}").contains("secret"));
        assert!(matches!(Client::new("http://localhost", Some("a\nb")), Err(ClientError::Key)));
    }
}
