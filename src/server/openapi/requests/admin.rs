//! Changes of adapters. A change that is understood in part is none: unknown fields are refused.

use std::collections::HashMap;

use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// The adapter that a path names.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AdapterName {
    /// The adapter's name
    pub name: String,
}

/// What must hold for a change to be made.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Conditions {
    /// The `etag` it must still have
    #[param(rename = "if-match")]
    pub if_match: Option<String>,
    /// `*`: the name must be free
    #[param(rename = "if-none-match")]
    pub if_none_match: Option<String>,
}

/// Body of `PUT /admin/adapters/{name}`: `path` or `alias_of`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAdapter {
    /// Where the adapter's directory lies, beneath the roots that the operator allows; or a place to
    /// fetch it from, such as `s3://bucket/prefix` or `hf://org/name@revision`, beneath those that the
    /// operator allows.
    pub path: Option<String>,
    /// What the file of weights must be, of an adapter that is fetched: `sha256:` or `blake3:` and 64
    /// hexadecimal digits.
    pub digest: Option<String>,
    /// Makes the name another one of this adapter; alone.
    pub alias_of: Option<String>,
    /// Keeps it in memory.
    pub pinned: Option<bool>,
    /// Whether the new version answers from now on.
    #[schema(default = true)]
    pub activate: Option<bool>,
    /// Only loads and checks it.
    #[schema(default = false)]
    pub dry_run: Option<bool>,
}

/// Body of `PUT /admin/adapters/{name}/rollout`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollOut {
    /// By version, its share of the requests.
    pub weights: HashMap<String, Weight>,
}

/// A version's share of the requests.
#[derive(Debug, ToSchema)]
#[schema(minimum = 0, maximum = 4294967295i64)]
pub struct Weight(pub i64);

/// Body of `PUT /admin/adapters/{name}/pin`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Whether it stays in memory.
    #[schema(default = true)]
    pub pinned: Option<bool>,
}

/// Body of `POST /v1/load_lora_adapter`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadLoraAdapter {
    /// The adapter's name.
    pub lora_name: String,
    /// Where its directory lies, beneath the roots that the operator allows, or a place to fetch it
    /// from.
    pub lora_path: String,
    /// Takes the place of an adapter of that name.
    #[schema(default = false)]
    pub load_inplace: Option<bool>,
}

/// Body of `POST /v1/unload_lora_adapter`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadLoraAdapter {
    /// The adapter's name.
    pub lora_name: String,
    /// vLLM's number of it, which says nothing beside the name.
    #[schema(value_type = Value)]
    pub lora_int_id: Option<Value>,
}
