//! Object stores, through `object_store`: it signs requests and finds credentials; trying again is
//! left to [`super::transfer`], which goes on where a transfer broke.

use std::sync::Arc;

use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, GetResult, ObjectStore, RetryConfig,
};

use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure};
use super::settings::Variables;
use crate::adapter::registry::{Location, Scheme};

/// Files beneath a prefix of a bucket.
#[derive(Debug)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

/// Gives every store the one client, which follows no redirects.
#[derive(Debug, Clone)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl Store {
    /// The store that `location` names, with what `variables` say of it.
    pub fn new(
        location: &Location,
        variables: &Variables,
        client: &reqwest::Client,
    ) -> Result<Self, RemoteError> {
        let store = match location.scheme() {
            Scheme::S3 => s3(location.root(), variables, client),
            Scheme::Gs => gs(location.root(), variables, client),
            _ => az(location.root(), variables, client),
        };
        // Its words may repeat what a variable holds.
        let store = store.map_err(|_| {
            let scheme = location.scheme().name();
            RemoteError::Settings(format!("the variables for {scheme}:// do not make a store"))
        })?;
        Ok(Self { store, prefix: location.path().to_owned() })
    }

    /// Asks for a file.
    pub async fn open(&self, file: &str, ask: Ask<'_>) -> Result<Answer, Failure> {
        let key = if self.prefix.is_empty() {
            file.to_owned()
        } else {
            format!("{}/{file}", self.prefix)
        };
        let key = Path::parse(key).map_err(|_| Failure::Passing("bug: that is no key"))?;
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
        match self.store.get_opts(&key, options).await {
            Ok(result) => Ok(Answer::Body(body(result))),
            Err(Error::NotFound { .. }) => Ok(Answer::Missing),
            Err(Error::NotModified { .. }) => Ok(Answer::Unchanged),
            Err(Error::Precondition { .. }) => Ok(Answer::Changed),
            Err(Error::PermissionDenied { .. }) => {
                Err(Failure::Lasting(RemoteError::Refused { status: 403 }))
            }
            Err(Error::Unauthenticated { .. }) => {
                Err(Failure::Lasting(RemoteError::Refused { status: 401 }))
            }
            Err(_) => Err(Failure::Passing("the store did not answer as it should")),
        }
    }
}

fn body(result: GetResult) -> Body {
    let (from, size, tag) = (result.range.start, result.meta.size, result.meta.e_tag.clone());
    let chunks = result
        .into_stream()
        .map(|chunk| chunk.map_err(|_| Failure::Passing("the connection broke")));
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
    client: &reqwest::Client,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in of(variables, "AWS_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(Connector(client.clone())).build()?))
}

fn gs(
    bucket: &str,
    variables: &Variables,
    client: &reqwest::Client,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in of(variables, "GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(Connector(client.clone())).build()?))
}

fn az(
    container: &str,
    variables: &Variables,
    client: &reqwest::Client,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in of(variables, "AZURE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_container_name(container).with_retry(no_retries());
    Ok(Arc::new(builder.with_http_connector(Connector(client.clone())).build()?))
}

/// Names, as the stores read them, and values.
fn of<'a>(
    variables: &'a Variables,
    prefix: &'static str,
) -> impl Iterator<Item = (String, &'a String)> {
    let own = variables.0.iter().filter(move |(name, _)| name.starts_with(prefix));
    own.map(|(name, value)| (name.to_ascii_lowercase(), value))
}
