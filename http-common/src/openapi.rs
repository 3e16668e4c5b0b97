//! The OpenAPI document of a service, made from its table of endpoints. Knows no service.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::{ApiVersion, Operation, Service};

/// The OpenAPI 3.1 document of `T`: what `docs/api/` holds.
pub fn document<T: Service>() -> Value {
    let versions: Vec<_> =
        T::VERSIONS.iter().copied().filter(|version| !given_up::<T>().contains(version)).collect();
    make::<T>(&versions, |operation| operation.versions.alone().is_none())
}

/// The document of `version`, which is one of [`given_up`].
pub fn document_of<T: Service>(version: ApiVersion) -> Value {
    make::<T>(&[version], |operation| operation.versions.alone() == Some(version))
}

/// The versions whose endpoints exist in no other version; each has a document of its own.
pub fn given_up<T: Service>() -> Vec<ApiVersion> {
    let mut versions: Vec<_> =
        T::operations().iter().filter_map(|operation| operation.versions.alone()).collect();
    versions.dedup();
    versions
}

fn make<T: Service>(versions: &[ApiVersion], belongs: impl Fn(&Operation) -> bool) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths = Map::new();
    for operation in T::operations().into_iter().filter(belongs) {
        let request = (operation.request)(&mut generator).to_value();
        let reply = (operation.reply)(&mut generator).to_value();
        let (path, _) = split(&operation);
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[operation.method.to_lowercase()] = describe(&operation, request, &reply);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".into(), error_schema());
    let versions: Vec<_> = versions.iter().map(|version| version.as_str()).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": T::NAME,
            "description": T::ABOUT.trim(),
            "version": versions.last(),
            "x-accepted-api-versions": versions,
        },
        "servers": [{ "url": format!("http://{}.sock", T::NAME), "description": "over the service's Unix socket" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// One operation. The request's fields are shared out over path, query and body, as the wire does it.
fn describe(operation: &Operation, mut request: Value, reply: &Value) -> Value {
    let (path, query) = split(operation);
    let about = request.get("description").cloned().unwrap_or_default();
    let mut parameters = vec![json!({
        "name": "api-version", "in": "query", "required": true, "schema": { "type": "string" },
        "description": operation.versions.to_string(),
    })];
    let in_path = path.split(['{', '}']).skip(1).step_by(2).map(|name| (name.to_owned(), "path"));
    for (name, place) in in_path.chain(query.into_iter().map(|name| (name, "query"))) {
        let schema = take_field(&mut request, &name);
        let required = place == "path";
        parameters.push(json!({ "name": name, "in": place, "required": required, "schema": schema }));
    }
    let status = operation.status.to_string();
    let success = match operation.status {
        204 => json!({ "description": "done" }),
        _ => json!({ "description": "done", "content": json_content(reply) }),
    };
    let error = json!({
        "description": "refused; see docs/errors.md",
        "content": json_content(&json!({ "$ref": "#/components/schemas/Error" })),
    });
    let mut described = json!({
        "operationId": operation.name,
        "description": about,
        "parameters": parameters,
        "responses": { status: success, "default": error },
    });
    if operation.method != "GET" {
        described["requestBody"] = body(operation.method, &request);
    }
    described
}

/// What the wire wants for a body: what is left of the request. Where nothing is left any JSON value will do, and must be
/// there for PUT.
fn body(method: &str, request: &Value) -> Value {
    let needs_fields = request["required"].as_array().is_some_and(|required| !required.is_empty());
    let schema = if has_fields(request) { request.clone() } else { json!({}) };
    json!({ "required": method == "PUT" || needs_fields, "content": json_content(&schema) })
}

fn split(operation: &Operation) -> (String, Vec<String>) {
    let (path, query) = operation.path.split_once('?').unwrap_or((operation.path, ""));
    (path.to_owned(), query.split('&').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn json_content(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// Takes a field that travels in the URI out of the request's schema.
fn take_field(request: &mut Value, name: &str) -> Value {
    if let Some(required) = request.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != name);
    }
    let properties = request.get_mut("properties").and_then(Value::as_object_mut);
    properties.and_then(|properties| properties.remove(name)).unwrap_or_else(|| json!({ "type": "string" }))
}

fn has_fields(request: &Value) -> bool {
    let nonempty = |key: &str| match &request[key] {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    ["properties", "allOf", "oneOf", "anyOf", "$ref"].iter().any(|key| nonempty(key))
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["message"],
        "properties": {
            "message": { "type": "string", "description": "for people: what was refused and what to do" },
            "code": { "type": "string", "description": "for programs: one word for the reason, where a service gives one" },
            "cloudStatus": { "type": "integer", "description": "the status with which the cloud refused" },
            "retryAfterSeconds": { "type": "integer", "description": "the seconds that the cloud asks to wait" },
        },
    })
}
