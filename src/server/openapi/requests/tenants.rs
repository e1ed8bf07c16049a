//! Tenants and keys, as they are declared and as they are shown. A declaration that is understood in
//! part is none: unknown fields are refused.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Body of `PUT /admin/tenants/{name}`: what is declared, and nothing else.
#[derive(Debug)]
pub struct PutTenant;

impl PartialSchema for PutTenant {
    fn schema() -> RefOr<Schema> {
        let mut schema = DeclaredTenant::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.description =
                Some("Body of `PUT /admin/tenants/{name}`: the tenant as a whole.".to_owned());
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
        schema
    }
}

impl ToSchema for PutTenant {}

/// What is declared of a tenant. Open, for the tenants that are shown have more fields.
#[derive(Debug, ToSchema)]
pub struct DeclaredTenant {
    /// Names or patterns of adapters that its keys may use.
    pub adapters: Option<Vec<String>>,
    /// Whether they may use the base model.
    #[schema(default = false)]
    pub base: Option<bool>,
    /// The model that is meant where none is named.
    pub default: Option<String>,
    /// Its part of the server relative to others'.
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: Option<i64>,
    /// Requests per minute.
    #[schema(minimum = 1)]
    pub requests_per_minute: Option<i64>,
    /// Tokens per minute, of prompts and answers.
    #[schema(minimum = 1)]
    pub tokens_per_minute: Option<i64>,
    /// Requests answered at once.
    #[schema(minimum = 1)]
    pub max_concurrent: Option<i64>,
    /// Prompts that wait at once.
    #[schema(minimum = 1)]
    pub max_waiting: Option<i64>,
    /// Tokens to generate per choice.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Tenants of one group share cached prompts.
    pub cache_group: Option<String>,
}

/// A tenant.
#[derive(Debug, ToSchema)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// As it is declared.
    #[serde(flatten)]
    pub declared: DeclaredTenant,
    /// Public names of its keys.
    pub keys: Vec<String>,
    /// Whether the keys file declares it, so that it cannot be changed here.
    pub in_file: bool,
}

/// Tenants.
#[derive(Debug, ToSchema)]
pub struct TenantList {
    /// `list`.
    pub object: String,
    /// The tenants.
    pub data: Vec<Tenant>,
}

/// Body of `POST /admin/keys`.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// For whom it speaks.
    pub tenant: String,
    /// What it is for; `user` where absent.
    pub roles: Option<Vec<KeyRole>>,
    /// When it ends, as `2027-01-31T00:00:00Z`.
    pub expires: Option<String>,
}

/// What a key is for: to use models, or to manage the server.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    /// To use models.
    User,
    /// To manage the server.
    Admin,
}

/// A key, without what opens.
#[derive(Debug, ToSchema)]
pub struct Key {
    /// Its public name.
    pub id: String,
    /// For whom it speaks.
    pub tenant: String,
    /// What it is for.
    pub roles: Vec<KeyRole>,
    /// When it ends.
    pub expires: Option<String>,
    /// Whether the keys file declares it, so that it cannot be deleted here.
    pub in_file: bool,
}

/// A key that was just made.
#[derive(Debug, ToSchema)]
pub struct NewKey {
    /// As lists show it.
    #[serde(flatten)]
    pub shown: Key,
    /// The key itself: it is told here and nowhere else.
    pub key: String,
}

/// Keys.
#[derive(Debug, ToSchema)]
pub struct KeyList {
    /// `list`.
    pub object: String,
    /// The keys.
    pub data: Vec<Key>,
}

/// A tenant that is gone.
#[derive(Debug, ToSchema)]
pub struct DeletedTenant {
    /// Its name.
    pub name: String,
    /// `true`.
    pub deleted: bool,
}

/// A key that is gone.
#[derive(Debug, ToSchema)]
pub struct DeletedKey {
    /// Its public name.
    pub id: String,
    /// `true`.
    pub deleted: bool,
}
