//! Who may change adapters.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::server::error::ApiError;
use crate::server::state::AppState;
use crate::server::tenancy::caller::Caller;

/// The other end of the connection, which every request carries.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Proof that the caller may manage this server. Every handler that changes what is served, or tells
/// of it more than `/v1/models` does, takes it before it looks at anything else.
///
/// Where the operator has allowed it at all, that is the holder of an administrator's key, and without
/// keys whoever calls from this machine.
#[derive(Debug, Clone, Copy)]
pub struct Admin(());

impl FromRequestParts<Arc<AppState>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, ApiError> {
        if !state.config.runtime_adapters {
            return Err(ApiError::forbidden("this server's adapters are not managed through HTTP"));
        }
        // With keys, the layer around all routes lets nobody else come so far; it is no less certain
        // for being asked again.
        if !state.tenancy.is_open() {
            let caller = parts.extensions.get::<Caller>();
            let admin = caller.is_some_and(Caller::is_admin);
            return if admin { Ok(Self(())) } else { Err(ApiError::not_allowed()) };
        }
        let peer = parts.extensions.get::<Peer>();
        if peer.is_some_and(|Peer(address)| is_own(address.ip())) {
            Ok(Self(()))
        } else {
            Err(ApiError::forbidden("adapters are managed from the server's own machine only"))
        }
    }
}

/// True for addresses of this machine that no other reaches.
fn is_own(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_machine() {
        let own = |text: &str| is_own(text.parse().unwrap());
        assert!(own("127.0.0.1") && own("127.8.8.8") && own("::1") && own("::ffff:127.0.0.1"));
        assert!(!own("10.0.0.1") && !own("::ffff:10.0.0.1") && !own("fe80::1") && !own("0.0.0.0"));
    }
}
