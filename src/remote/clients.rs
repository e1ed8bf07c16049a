//! HTTP clients, one for each rule about redirects.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::error::RemoteError;
use super::web::Hosts;

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// HTTP clients, one for each rule about redirects.
#[derive(Debug)]
pub(super) struct Clients {
    /// Follows none.
    pub plain: Client,
    /// Follows those to hosts that the operator named.
    pub web: Client,
    /// Follows those to the hub's hosts too.
    pub hub: Client,
}

impl Clients {
    /// Clients that follow redirects to `hosts`, and the hub at `endpoint`.
    ///
    /// # Errors
    /// Where this machine has no certificates to trust.
    pub fn new(hosts: Hosts, endpoint: &Url) -> Result<Self, RemoteError> {
        // Somebody else may have chosen before, and that one does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            plain: client(Policy::none())?,
            web: client(hosts.clone().redirects())?,
            hub: client(hosts.with_hub(endpoint).redirects())?,
        })
    }
}

fn client(redirects: Policy) -> Result<Client, RemoteError> {
    let builder = Client::builder()
        .redirect(redirects)
        // An address is nobody else's business.
        .referer(false)
        .user_agent(concat!("sorsa/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT);
    builder.build().map_err(|_| {
        let message = "there is no HTTP client: are certificates installed (ca-certificates), or \
                       named by SSL_CERT_FILE?";
        RemoteError::Settings(message.to_owned())
    })
}
