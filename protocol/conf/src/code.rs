//! Why a request is refused.

macro_rules! codes {
    ($($variant:ident = $code:literal, $help:literal;)*) => {
        /// Why conf refuses a request. In answers and as the reason of counters it is written as [`Code::as_str`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $help] $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As in answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// One line for whoever writes the SDK.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

codes! {
    AppUnknown = "app_unknown", "There is no such app.";
    AppDisabled = "app_disabled", "The app is switched off.";
    ChannelUnknown = "channel_unknown", "There is no such channel, or it is another tenant's.";
    ChannelDisabled = "channel_disabled", "The channel is switched off.";
    Address = "address", "The client's address may not ask.";
    Referer = "referer", "Pages of this site may not ask.";
    RefererMissing = "referer_missing", "The app asks for a Referer or Origin header, and there was none.";
    UserAgent = "user_agent", "This program (User-Agent) may not ask.";
    UserAgentMissing = "user_agent_missing", "The app asks for a User-Agent header, and there was none.";
    Package = "package", "This package or bundle id may not ask.";
    PackageMissing = "package_missing", "The app asks for a package or bundle id (package=), and there was none.";
    SignatureMissing = "signature_missing", "The app asks for a signature, and there was neither one nor a valid pass.";
    SignatureMalformed = "signature_malformed", "The signature is not KEY.TIMESTAMP.NONCE.SIGNATURE.";
    SignatureKey = "signature_key", "The signature's key is not, or no longer, one of the app's.";
    SignatureWrong = "signature_wrong", "The signature is not that of this request.";
    SignatureTime = "signature_time", "The signature's time is outside the app's replay window; check the clock.";
    SignatureReplayed = "signature_replayed", "The signature's nonce was used before; sign each request anew.";
    SignatureBusy = "signature_busy", "More signed requests than can be remembered came within the replay window.";
}

impl Code {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::AppUnknown | Self::ChannelUnknown => 404,
            _ => 403,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.help())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_labels() {
        let mut codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Code::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
