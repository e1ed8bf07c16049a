//! `/admin/tenants` and `/admin/keys`: tenants and keys, declared while the server runs. A key is told
//! once, to whoever made it; lists know its public name alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::server::blocking::blocking;
use crate::server::call::Call;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{JsonObject, PathName};
use crate::server::openai::fields::Fields;
use crate::server::openapi::{errors, requests};
use crate::server::state::AppState;
use crate::tenant::declarations::{ChangeError, Declarations};
use crate::tenant::key::NewKey;
use crate::tenant::keys_file::{KeyEntry, Role, TenantEntry};

/// Patterns of adapters that a tenant may have: each request is compared with them.
const MAX_PATTERNS: usize = 1024;
/// Roles of a key: there are two.
const MAX_ROLES: usize = 2;
/// Bytes of one of these.
const MAX_TEXT: usize = 256;

/// A tenant as lists show it.
#[derive(Debug, Serialize)]
struct TenantView<'a> {
    name: &'a str,
    #[serde(flatten)]
    entry: &'a TenantEntry,
    /// Public names of its keys.
    keys: Vec<&'a str>,
    /// Whether the keys file declares it, so that it cannot be changed here.
    in_file: bool,
}

/// A key as lists show it.
#[derive(Debug, Serialize)]
struct KeyView<'a> {
    id: &'a str,
    tenant: &'a str,
    roles: &'a [Role],
    expires: Option<String>,
    in_file: bool,
}

/// Answers `GET /admin/tenants`.
///
/// # Errors
/// Where the server has no keys file.
#[utoipa::path(
    get,
    path = "/admin/tenants",
    operation_id = "list_tenants",
    tag = "admin",
    summary = "List the tenants",
    responses((status = 200, description = "The tenants", body = requests::TenantList), errors::Managing),
)]
pub async fn list_tenants(State(state): State<Arc<AppState>>, call: Call) -> ApiResult<Value> {
    check(&call)?;
    let list = |all: &Declarations| {
        let tenants = listed(&all.file.tenants, &all.own.tenants);
        let views = tenants.map(|(name, entry, in_file)| tenant_view(all, name, entry, in_file));
        json!({"object": "list", "data": views.collect::<Vec<_>>()})
    };
    state.tenancy.declared(list).map(Json).ok_or_else(ApiError::no_keys_file)
}

/// Answers `PUT /admin/tenants/{name}`: declares it, or declares it anew as a whole.
///
/// # Errors
/// Wrong fields, and a tenant of the keys file.
#[utoipa::path(
    put,
    path = "/admin/tenants/{name}",
    operation_id = "put_tenant",
    tag = "admin",
    summary = "Declare a tenant",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body(content = requests::PutTenant, example = json!({"adapters": ["acme-*"], "requests_per_minute": 60})),
    responses((status = 200, description = "The tenant", body = requests::Tenant), (status = 201, description = "The tenant, which is new", body = requests::Tenant), errors::Managing),
)]
pub async fn put_tenant(
    State(state): State<Arc<AppState>>,
    call: Call,
    PathName(name): PathName,
    JsonObject(fields): JsonObject,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    check(&call)?;
    let entry = take_tenant(fields)?;
    let new = change(&state, move |all| {
        let new = all.put_tenant(&name, entry.clone())?;
        Ok((new, json!(tenant_view(all, &name, &entry, false))))
    });
    let (new, view) = new.await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view)))
}

/// Answers `DELETE /admin/tenants/{name}`: its keys end with it.
///
/// # Errors
/// Where there is none, or the keys file declares it.
#[utoipa::path(
    delete,
    path = "/admin/tenants/{name}",
    operation_id = "delete_tenant",
    tag = "admin",
    summary = "Delete a tenant and its keys",
    params(("name" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "It is gone", body = requests::DeletedTenant), errors::Managing),
)]
pub async fn delete_tenant(
    State(state): State<Arc<AppState>>,
    call: Call,
    PathName(name): PathName,
) -> ApiResult<Value> {
    check(&call)?;
    let answer = json!({"name": name, "deleted": true});
    change(&state, move |all| all.remove_tenant(&name)).await?;
    Ok(Json(answer))
}

/// Answers `GET /admin/keys`.
///
/// # Errors
/// Where the server has no keys file.
#[utoipa::path(
    get,
    path = "/admin/keys",
    operation_id = "list_keys",
    tag = "admin",
    summary = "List the keys",
    responses((status = 200, description = "The keys, without what opens", body = requests::KeyList), errors::Managing),
)]
pub async fn list_keys(State(state): State<Arc<AppState>>, call: Call) -> ApiResult<Value> {
    check(&call)?;
    let list = |all: &Declarations| {
        let keys = listed(&all.file.keys, &all.own.keys);
        let views = keys.map(|(id, entry, in_file)| key_view(id, entry, in_file));
        json!({"object": "list", "data": views.collect::<Vec<_>>()})
    };
    state.tenancy.declared(list).map(Json).ok_or_else(ApiError::no_keys_file)
}

/// Answers `POST /admin/keys`: makes a key. It stands in this answer and nowhere else.
///
/// # Errors
/// Wrong fields, and an unknown tenant.
#[utoipa::path(
    post,
    path = "/admin/keys",
    operation_id = "create_key",
    tag = "admin",
    summary = "Make a key",
    request_body(content = requests::CreateKey, example = json!({"tenant": "acme"})),
    responses((status = 201, description = "The key, told once", body = requests::NewKey), errors::Managing),
)]
pub async fn create_key(
    State(state): State<Arc<AppState>>,
    call: Call,
    JsonObject(fields): JsonObject,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    check(&call)?;
    let key = NewKey::random().map_err(|error| {
        tracing::error!(%error, "no key can be made");
        ApiError::internal()
    })?;
    let entry = take_key(fields, &key)?;
    let mut view = json!(key_view(&key.id, &entry, false));
    view["key"] = json!(key.secret);
    change(&state, move |all| all.add_key(&key.id, entry)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Answers `DELETE /admin/keys/{id}`: the key opens nothing from now on.
///
/// # Errors
/// Where there is none, or the keys file declares it.
#[utoipa::path(
    delete,
    path = "/admin/keys/{id}",
    operation_id = "delete_key",
    tag = "admin",
    summary = "Delete a key",
    params(("id" = String, Path, description = "The key's public name")),
    responses((status = 200, description = "It opens nothing from now on", body = requests::DeletedKey), errors::Managing),
)]
pub async fn delete_key(
    State(state): State<Arc<AppState>>,
    call: Call,
    PathName(key): PathName,
) -> ApiResult<Value> {
    check(&call)?;
    let answer = json!({"id": key, "deleted": true});
    change(&state, move |all| all.remove_key(&key)).await?;
    Ok(Json(answer))
}

/// Without keys nobody is an administrator of keys, wherever the call comes from.
fn check(call: &Call) -> Result<(), ApiError> {
    if call.caller.is_admin() { Ok(()) } else { Err(ApiError::no_keys_file()) }
}

async fn change<T, F>(state: &Arc<AppState>, change: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&mut Declarations) -> Result<T, ChangeError> + Send + 'static,
{
    let tenancy = Arc::clone(&state.tenancy);
    let work = move || {
        let done = tenancy.change(change).ok_or_else(ApiError::no_keys_file)?;
        done.map_err(|error| match error {
            ChangeError::InFile(_) => ApiError::in_file(error.to_string()),
            ChangeError::Unknown(name) => ApiError::unknown(&name),
            ChangeError::Wrong(wrong) => ApiError::body(wrong.to_string()),
            ChangeError::NotWritten => ApiError::state_unavailable(),
        })
    };
    blocking("a change of tenants", work).await
}

/// The entries of the keys file, and those declared while serving that it does not hold, each with
/// whether it is the file's.
fn listed<'a, E>(
    file: &'a BTreeMap<String, E>,
    own: &'a BTreeMap<String, E>,
) -> impl Iterator<Item = (&'a String, &'a E, bool)> {
    let own = own.iter().filter(|(name, _)| !file.contains_key(*name));
    let in_file = file.iter().map(|(name, entry)| (name, entry, true));
    in_file.chain(own.map(|(name, entry)| (name, entry, false)))
}

fn tenant_view<'a>(
    all: &'a Declarations,
    name: &'a str,
    entry: &'a TenantEntry,
    in_file: bool,
) -> TenantView<'a> {
    let keys = all.file.keys.iter().chain(&all.own.keys);
    let own = keys.filter(|(_, key)| key.tenant == name).map(|(id, _)| id.as_str());
    TenantView { name, entry, keys: own.collect(), in_file }
}

fn key_view<'a>(id: &'a str, entry: &'a KeyEntry, in_file: bool) -> KeyView<'a> {
    let KeyEntry { tenant, roles, expires, .. } = entry;
    KeyView { id, tenant, roles, expires: expires.map(|time| time.to_string()), in_file }
}

fn take_tenant(mut fields: Fields) -> Result<TenantEntry, ApiError> {
    let limit = 1..=i64::MAX;
    let count = |fields: &mut Fields, name: &str| fields.count(name, limit.clone());
    let rate = |fields: &mut Fields, name: &str| -> Result<Option<u64>, ApiError> {
        Ok(fields.count(name, limit.clone())?.map(|count| count as u64))
    };
    let entry = TenantEntry {
        adapters: take_strings(&mut fields, "adapters", MAX_PATTERNS)?.unwrap_or_default(),
        base: fields.boolean("base", false)?,
        default: fields.string("default")?,
        weight: fields
            .count("weight", 1..=1000)?
            .map(|weight| u32::try_from(weight).unwrap_or(u32::MAX)),
        requests_per_minute: rate(&mut fields, "requests_per_minute")?,
        tokens_per_minute: rate(&mut fields, "tokens_per_minute")?,
        max_concurrent: count(&mut fields, "max_concurrent")?,
        max_waiting: count(&mut fields, "max_waiting")?,
        max_tokens: count(&mut fields, "max_tokens")?,
        cache_group: fields.string("cache_group")?,
    };
    fields.none_left()?;
    Ok(entry)
}

fn take_key(mut fields: Fields, key: &NewKey) -> Result<KeyEntry, ApiError> {
    let wrong_role =
        || ApiError::invalid("roles", "`roles` must be an array of `user` and `admin`");
    let role = |name: String| match name.as_str() {
        "user" => Ok(Role::User),
        "admin" => Ok(Role::Admin),
        _ => Err(wrong_role()),
    };
    let roles = match take_strings(&mut fields, "roles", MAX_ROLES)? {
        None => vec![Role::User],
        Some(names) if names.is_empty() => return Err(wrong_role()),
        Some(names) => names.into_iter().map(role).collect::<Result<_, _>>()?,
    };
    let expires = match fields.string("expires")? {
        None => None,
        Some(time) => Some(time.parse().map_err(|_| {
            let message = "`expires` must be a time such as 2027-01-31T00:00:00Z";
            ApiError::invalid("expires", message)
        })?),
    };
    let tenant = fields.string("tenant")?.ok_or_else(|| fields.missing("tenant"))?;
    fields.none_left()?;
    Ok(KeyEntry { tenant, sha256: key.hash().to_string(), roles, expires })
}

/// Takes an array of at most `most` strings.
fn take_strings(
    fields: &mut Fields,
    name: &str,
    most: usize,
) -> Result<Option<Vec<String>>, ApiError> {
    let wrong = || {
        let message = format!("`{name}` must be an array of strings of at most {MAX_TEXT} bytes");
        ApiError::invalid(name, message)
    };
    let Some(values) = fields.array_of(name, most)? else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        Value::String(text) if text.len() <= MAX_TEXT => Ok(text),
        _ => Err(wrong()),
    });
    strings.collect::<Result<_, _>>().map(Some)
}
