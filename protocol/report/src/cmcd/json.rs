//! CMCD as JSON: CTA-5004 has it as a third way of sending, and raw records keep it so.

use serde_json::{Map, Value as Json, json};

use super::value::{Item, MAX_INTEGER, Value, is_token};
use super::{Cmcd, CmcdError, MAX_KEY, MAX_LIST, Sort, sort};

impl Cmcd {
    /// Reads an object such as `{"br": 3200, "bs": true, "sid": "6e2fb550"}`. A value in a list is plain, or an object with
    /// `value` and the parameters.
    pub fn from_json(value: &Json) -> Result<Self, CmcdError> {
        let map = value.as_object().ok_or(CmcdError::Json)?;
        let mut cmcd = Self::default();
        for (key, value) in map {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"*-._".contains(&byte);
            if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(good) {
                return Err(CmcdError::Json);
            }
            let value = match value {
                Json::Array(values) if values.len() <= MAX_LIST => {
                    Value::List(values.iter().map(item).collect::<Result<_, _>>()?)
                }
                Json::Null => continue,
                other => bare(key, other)?,
            };
            if !cmcd.insert(key.clone(), value) {
                return Err(CmcdError::Keys);
            }
        }
        Ok(cmcd)
    }

    /// As an object that [`Cmcd::from_json`] reads.
    pub fn to_json(&self) -> Json {
        Json::Object(self.iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect())
    }
}

fn item(value: &Json) -> Result<Item, CmcdError> {
    let Json::Object(map) = value else {
        return Ok(Item { value: bare("", value)?, parameters: Vec::new() });
    };
    if map.len() > MAX_LIST {
        return Err(CmcdError::Json);
    }
    let parameters = map.iter().filter(|(name, _)| *name != "value");
    let parameters = parameters.map(|(name, value)| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"*-._".contains(&byte);
        let named = !name.is_empty() && name.len() <= MAX_KEY && name.bytes().all(good);
        if named { Ok((name.clone(), bare("", value)?)) } else { Err(CmcdError::Json) }
    });
    Ok(Item {
        value: bare("", map.get("value").ok_or(CmcdError::Json)?)?,
        parameters: parameters.collect::<Result<_, _>>()?,
    })
}

fn bare(key: &str, value: &Json) -> Result<Value, CmcdError> {
    match value {
        Json::Bool(value) => Ok(Value::Boolean(*value)),
        Json::Number(number) => match number.as_i64() {
            Some(number) if number.abs() <= MAX_INTEGER => Ok(Value::Integer(number)),
            Some(_) => Err(CmcdError::Json),
            None => {
                let thousandths = number.as_f64().map(|number| number * 1000.0);
                let fits = thousandths.filter(|number| number.abs() <= MAX_INTEGER as f64);
                fits.map(|number| Value::Decimal(number as i64)).ok_or(CmcdError::Json)
            }
        },
        Json::String(text) if text.chars().any(char::is_control) => Err(CmcdError::Json),
        // JSON has no tokens: the key tells.
        Json::String(text) if sort(key) == Some(Sort::Token) && is_token(text) => Ok(Value::Token(text.clone())),
        Json::String(text) => Ok(Value::Text(text.clone())),
        Json::Null | Json::Array(_) | Json::Object(_) => Err(CmcdError::Json),
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Boolean(value) => json!(value),
        Value::Integer(number) => json!(number),
        Value::Decimal(thousandths) => json!(*thousandths as f64 / 1000.0),
        Value::Token(text) | Value::Text(text) => json!(text),
        Value::List(items) => items
            .iter()
            .map(|item| {
                if item.parameters.is_empty() {
                    return to_json(&item.value);
                }
                let mut map = Map::new();
                map.insert("value".to_owned(), to_json(&item.value));
                map.extend(item.parameters.iter().map(|(name, value)| (name.clone(), to_json(value))));
                Json::Object(map)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_what_its_dictionary_is() {
        let text = r#"v=2,br=(3200;v 128;a),bs,e=ps,ec=("E1" "E2"),pr=1.5,sid="x",sn=7,com.example-k="a b""#;
        let cmcd: Cmcd = text.parse().unwrap();
        let json = cmcd.to_json();
        assert_eq!(json["br"], json!([{"value": 3200, "v": true}, {"value": 128, "a": true}]));
        let again = Cmcd::from_json(&json).unwrap();
        for (key, value) in cmcd.iter() {
            assert_eq!(again.get(key), Some(value), "{key}");
        }
        for bad in [
            json!([]),
            json!({"br": {"a": 1}}),
            json!({"": 1}),
            json!({"a b": 1}),
            json!({"br": [[1]]}),
            json!({"br": 1e17}),
        ] {
            assert_eq!(Cmcd::from_json(&bad), Err(CmcdError::Json), "{bad}");
        }
    }
}
