//! Stub.
use serde_json::Value;
#[derive(Debug)]
pub struct ChatTemplate;
#[derive(Debug, Default)]
pub struct RenderOptions {}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);
impl TemplateError {
    pub fn refusal(&self) -> Option<&str> {
        Some(&self.0)
    }
}
impl ChatTemplate {
    pub fn render(
        &self,
        messages: &Value,
        add: bool,
        _o: &RenderOptions,
    ) -> Result<String, TemplateError> {
        let mut out = String::new();
        for m in messages.as_array().into_iter().flatten() {
            let role = m["role"].as_str().unwrap_or_default();
            if role == "system" {
                return Err(TemplateError("no system".into()));
            }
            out += &format!("<s>{role}\n{}</s>\n", m["content"].as_str().unwrap_or_default());
        }
        if add {
            out += "<s>assistant\n";
        }
        Ok(out)
    }
}
