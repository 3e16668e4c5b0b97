//! aziot_keys.so, the OpenSSL engine.
