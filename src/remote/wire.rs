//! What an object store's library sends and hears, beside what it tells: statuses, and how long a store
//! wants to be left alone. Answers that it would take for a whole file, and are none, end here.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RANGE};

/// One client for all that a store's library sends; it follows no redirects.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: HttpClient,
    heard: Arc<Heard>,
}

/// What was heard since it was cleared.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Last>);

/// The last answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Last {
    /// Whether a file was asked for, and not only credentials.
    pub was_asked: bool,
    pub status: Option<StatusCode>,
    pub headers: HeaderMap,
    /// Whether the file came compressed.
    pub is_encoded: bool,
}

/// An answer that is not what was asked for.
#[derive(Debug)]
struct Unusable;

impl Heard {
    /// Forgets it.
    pub fn clear(&self) {
        *self.lock() = Last::default();
    }

    /// The last answer.
    pub fn last(&self) -> Last {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Sends through `client`, and tells `heard`.
    pub fn new(client: reqwest::Client, heard: Arc<Heard>) -> Self {
        Self { client: HttpClient::new(client), heard }
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Credentials are asked for elsewhere, and without a file's name.
        let path = request.uri().path();
        let is_file = [".json", ".safetensors"].iter().any(|ending| path.ends_with(ending));
        let has_range = request.headers().contains_key(RANGE);
        self.heard.lock().was_asked |= is_file;
        let response = self.client.execute(request).await?;
        let (status, headers) = (response.status(), response.headers());
        let coding = headers.get(CONTENT_ENCODING);
        let is_encoded = is_file
            && status.is_success()
            && coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let is_part = status == StatusCode::PARTIAL_CONTENT && !has_range;
        {
            let mut last = self.heard.lock();
            (last.status, last.headers, last.is_encoded) =
                (Some(status), headers.clone(), is_encoded);
        }
        if is_encoded || is_part {
            return Err(HttpError::new(HttpErrorKind::Decode, Unusable));
        }
        Ok(response)
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Wire {
    // As the trait's macro has it.
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.send(request))
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer that was not asked for")
    }
}

impl std::error::Error for Unusable {}
