//! Object stores, through `object_store`: it signs requests and finds credentials; trying again is
//! left to [`super::transfer`], which goes on where a transfer broke.

use std::sync::Arc;

use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectStore, RetryConfig};

use reqwest::StatusCode;

use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure};
use super::settings::Variables;
use super::web::refusal;
use super::wire::{Heard, Wire};
use crate::adapter::registry::{Location, Scheme};

/// Variables with credentials.
const S3_CREDENTIALS: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true \
                              for a public bucket)";
const GS_CREDENTIALS: &str = "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS (or \
                              GOOGLE_SKIP_SIGNATURE=true for a public bucket)";
const AZ_CREDENTIALS: &str = "AZURE_STORAGE_ACCOUNT_KEY (or AZURE_SKIP_SIGNATURE=true for a public \
                              container)";

/// Files beneath a prefix of a bucket.
#[derive(Debug)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    heard: Arc<Heard>,
    /// Where its credentials are looked for.
    variables: &'static str,
}

impl Store {
    /// The store that `location` names, with what `variables` say of it.
    pub fn new(
        location: &Location,
        variables: &Variables,
        client: &reqwest::Client,
    ) -> Result<Self, RemoteError> {
        let heard = Arc::new(Heard::default());
        let wire = Wire::new(client.clone(), Arc::clone(&heard));
        let (store, names) = match location.scheme() {
            Scheme::S3 => (s3(location.root(), variables, wire), S3_CREDENTIALS),
            Scheme::Gs => (gs(location.root(), variables, wire), GS_CREDENTIALS),
            _ => (az(location.root(), variables, wire), AZ_CREDENTIALS),
        };
        // Its words may repeat what a variable holds.
        let store = store.map_err(|_| {
            let scheme = location.scheme().name();
            RemoteError::Settings(format!("the variables for {scheme}:// do not make a store"))
        })?;
        Ok(Self { store, prefix: location.path().to_owned(), heard, variables: names })
    }

    /// Asks for a file.
    pub async fn open(&self, file: &str, ask: Ask<'_>) -> Result<Answer, Failure> {
        let key = if self.prefix.is_empty() {
            file.to_owned()
        } else {
            format!("{}/{file}", self.prefix)
        };
        let key = Path::parse(key).map_err(|_| Failure::passing("bug: that is no key"))?;
        let options = match ask {
            Ask::Whole => GetOptions::default(),
            Ask::Unless(tag) => {
                GetOptions { if_none_match: Some(tag.to_owned()), ..GetOptions::default() }
            }
            Ask::Rest { from, tag } => GetOptions {
                if_match: Some(tag.to_owned()),
                range: Some(GetRange::Offset(from)),
                ..GetOptions::default()
            },
        };
        self.heard.clear();
        match self.store.get_opts(&key, options).await {
            Ok(result) => Ok(Answer::Body(body(result))),
            Err(error) => self.without_body(&error, ask),
        }
    }

    /// What an answer without a file means.
    fn without_body(&self, error: &Error, ask: Ask<'_>) -> Result<Answer, Failure> {
        let heard = self.heard.last();
        match error {
            Error::NotFound { .. } if names_no_bucket(error) => {
                Err(Failure::Lasting(RemoteError::NoBucket))
            }
            Error::NotFound { .. } => Ok(Answer::Missing),
            Error::NotModified { .. } if matches!(ask, Ask::Unless(_)) => Ok(Answer::Unchanged),
            Error::Precondition { .. } => Ok(Answer::Changed),
            _ if heard.is_encoded => Err(Failure::Lasting(RemoteError::Encoded)),
            _ => match heard.status {
                // Nobody was asked for the file: it has to be signed first, and by whom?
                _ if !heard.was_asked => {
                    let variables = self.variables;
                    Err(Failure::Lasting(RemoteError::NoCredentials { variables }))
                }
                // A part that is not the one that was asked for, or all.
                Some(status) if status.is_success() && matches!(ask, Ask::Rest { .. }) => {
                    Ok(Answer::Changed)
                }
                Some(StatusCode::RANGE_NOT_SATISFIABLE) => Ok(Answer::Changed),
                Some(status) if status.is_client_error() || status.is_server_error() => {
                    Err(refusal(status, &heard.headers))
                }
                Some(status) if status.is_redirection() => {
                    Err(Failure::Lasting(RemoteError::Redirect))
                }
                _ => Err(Failure::passing("the store did not answer as it should")),
            },
        }
    }
}

/// Whether the store says that there is nothing in which the file could be. Its words are looked at,
/// and not passed on.
fn names_no_bucket(error: &Error) -> bool {
    let words = error.to_string();
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]
        .iter()
        .any(|code| words.contains(code))
}

fn body(result: GetResult) -> Body {
    let (from, size, tag) = (result.range.start, result.meta.size, result.meta.e_tag.clone());
    let chunks = result
        .into_stream()
        .map(|chunk| chunk.map_err(|_| Failure::passing("the connection broke")));
    let tag = tag.filter(|tag| !tag.starts_with("W/"));
    Body { from, size: Some(size), tag, chunks: chunks.boxed() }
}

/// None: who calls tries again.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn s3(
    bucket: &str,
    variables: &Variables,
    wire: Wire,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in of(variables, "AWS_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(wire).build()?))
}

fn gs(
    bucket: &str,
    variables: &Variables,
    wire: Wire,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in of(variables, "GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(wire).build()?))
}

fn az(
    container: &str,
    variables: &Variables,
    wire: Wire,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in of(variables, "AZURE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_container_name(container).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(wire).build()?))
}

/// Names, as the stores read them, and values.
fn of<'a>(
    variables: &'a Variables,
    prefix: &'static str,
) -> impl Iterator<Item = (String, &'a String)> {
    let own = variables.0.iter().filter(move |(name, _)| name.starts_with(prefix));
    own.map(|(name, value)| (name.to_ascii_lowercase(), value))
}
