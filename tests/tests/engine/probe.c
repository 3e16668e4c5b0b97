/* A program as users of OpenSSL write them: what the openssl command cannot show, through the C API. Prints "ok" and
 * ends with 0, or says what failed. Configured by OPENSSL_CONF, like every program. */

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <openssl/store.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if OPENSSL_VERSION_MAJOR < 4 && !defined(OPENSSL_NO_ENGINE)
#define HAS_ENGINE
#include <openssl/engine.h>
#endif

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) fail(__LINE__, #condition);                                                                  \
    } while (0)

static void fail(int line, const char *what) {
    fprintf(stderr, "line %d: not %s\n", line, what);
    ERR_print_errors_fp(stderr);
    _exit(1);
}

/* The one key that `uri` gives; a path is read as PEM. NULL if there is none. */
static EVP_PKEY *load_in(OSSL_LIB_CTX *lib, const char *uri) {
    if (uri[0] == '/') {
        FILE *file = fopen(uri, "r");
        CHECK(file != NULL);
        EVP_PKEY *key = PEM_read_PrivateKey_ex(file, NULL, NULL, NULL, lib, NULL);
        fclose(file);
        return key;
    }
    EVP_PKEY *key = NULL;
    OSSL_STORE_CTX *store = OSSL_STORE_open_ex(uri, lib, NULL, NULL, NULL, NULL, NULL, NULL);
    if (store == NULL) return NULL;
    while (!OSSL_STORE_eof(store)) {
        OSSL_STORE_INFO *info = OSSL_STORE_load(store);
        if (info != NULL && OSSL_STORE_INFO_get_type(info) == OSSL_STORE_INFO_PKEY) {
            EVP_PKEY_free(key);
            key = OSSL_STORE_INFO_get1_PKEY(info);
        }
        OSSL_STORE_INFO_free(info);
    }
    OSSL_STORE_close(store);
    return key;
}

static EVP_PKEY *load(const char *uri) { return load_in(NULL, uri); }

static int try_sign(EVP_PKEY *key) {
    unsigned char signature[1024];
    size_t length = sizeof signature;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int signed_ = EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
                  EVP_DigestSign(ctx, signature, &length, (const unsigned char *)"text", 4) == 1;
    EVP_MD_CTX_free(ctx);
    if (!signed_) return 0;
    ctx = EVP_MD_CTX_new();
    CHECK(EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1);
    CHECK(EVP_DigestVerify(ctx, signature, length, (const unsigned char *)"text", 4) == 1);
    CHECK(EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1);
    CHECK(EVP_DigestVerify(ctx, signature, length, (const unsigned char *)"Text", 4) != 1);
    ERR_clear_error();
    EVP_MD_CTX_free(ctx);
    return 1;
}

static void sign(EVP_PKEY *key) { CHECK(try_sign(key)); }

/* Kilobytes of memory that this process occupies. */
static long resident(void) {
    long all, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &all, &resident) == 2);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE) / 1024;
}

/* Load, sign, dup, sign, free; then unload. If memory is to be steady, it may not grow after a tenth of the rounds. */
static void loop(const char *uri, int rounds, int is_steady) {
    long before = 0;
    OSSL_LIB_CTX *lib = OSSL_LIB_CTX_new();
    OSSL_PROVIDER *own = OSSL_PROVIDER_load(lib, "aziot"), *other = OSSL_PROVIDER_load(lib, "default");
    CHECK(own != NULL && other != NULL);
    for (int i = 0; i < rounds; i++) {
        if (i == rounds / 10) before = resident();
        EVP_PKEY *key = load_in(lib, uri);
        CHECK(key != NULL);
        sign(key);
        EVP_PKEY *copy = EVP_PKEY_dup(key);
        CHECK(copy != NULL);
        EVP_PKEY_free(key);
        sign(copy);
        EVP_PKEY_free(copy);
    }
    long grown = resident() - before;
    if (is_steady && grown > 256) {
        fprintf(stderr, "%ld kB more after %d rounds than after a tenth of them\n", grown, rounds);
        _exit(1);
    }
    CHECK(OSSL_PROVIDER_unload(own));
    OSSL_PROVIDER_unload(other);
    OSSL_LIB_CTX_free(lib);
}

/* Two contexts, one is unloaded. */
static void contexts(const char *uri) {
    OSSL_LIB_CTX *lib[2] = {OSSL_LIB_CTX_new(), OSSL_LIB_CTX_new()};
    OSSL_PROVIDER *own[2], *other[2];
    EVP_PKEY *key[2];
    for (int i = 0; i < 2; i++) {
        own[i] = OSSL_PROVIDER_load(lib[i], "aziot");
        other[i] = OSSL_PROVIDER_load(lib[i], "default");
        CHECK(own[i] != NULL && other[i] != NULL);
        CHECK((key[i] = load_in(lib[i], uri)) != NULL);
    }
    EVP_PKEY_free(key[0]);
    CHECK(OSSL_PROVIDER_unload(own[0]) && OSSL_PROVIDER_unload(other[0]));
    OSSL_LIB_CTX_free(lib[0]);
    sign(key[1]);
    EVP_PKEY_free(key[1]);
    CHECK(OSSL_PROVIDER_unload(own[1]) && OSSL_PROVIDER_unload(other[1]));
    OSSL_LIB_CTX_free(lib[1]);
}

static void *load_and_unload(void *uri) {
    loop(uri, 1, 0);
    return NULL;
}

/* Nothing is left behind with a thread: neither one that ends after the unloading, nor one that unloads more often than
 * it can have keys for its data. */
static void unloaded(char *uri) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, load_and_unload, uri) == 0 && pthread_join(thread, NULL) == 0);
    pthread_key_t keys[PTHREAD_KEYS_MAX];
    int count = 0;
    while (pthread_key_create(&keys[count], NULL) == 0) count++;
    for (int i = 0; i < 40; i++) CHECK(pthread_key_delete(keys[--count]) == 0);
    for (int i = 0; i < 60; i++) loop(uri, 1, 0);
}

static void *sign_many(void *key) {
    for (int i = 0; i < 20; i++) sign(key);
    return NULL;
}

/* 16 threads with one key, then a child, then both. */
static void threads_and_fork(EVP_PKEY *key) {
    pthread_t threads[16];
    for (int i = 0; i < 16; i++) CHECK(pthread_create(&threads[i], NULL, sign_many, key) == 0);
    for (int i = 0; i < 16; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    pid_t child = fork();
    if (child == 0) {
        sign_many(key);
        _exit(0);
    }
    sign_many(key);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    sign(key);
}

/* What leaves the provider. */
static void export(EVP_PKEY *key) {
    OSSL_PARAM *params = NULL;
    CHECK(EVP_PKEY_todata(key, EVP_PKEY_KEYPAIR, &params) != 1);
    CHECK(EVP_PKEY_todata(key, EVP_PKEY_PUBLIC_KEY, &params) == 1);
    for (OSSL_PARAM *param = params; param->key != NULL; param++)
        CHECK(strcmp(param->key, "d") != 0 && strcmp(param->key, "priv") != 0);
    OSSL_PARAM_free(params);
    BIGNUM *number = NULL;
    CHECK(EVP_PKEY_get_bn_param(key, EVP_PKEY_is_a(key, "RSA") ? "d" : "priv", &number) != 1);
}

/* Whether certificate and key fit, as servers ask. */
static void match(const char *certificate, const char *uri, const char *wrong_uri) {
    EVP_PKEY *key = load(uri), *wrong = load(wrong_uri);
    CHECK(key != NULL && wrong != NULL);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    CHECK(SSL_CTX_use_certificate_chain_file(ctx, certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(ctx, wrong) != 1);
    CHECK(SSL_CTX_use_PrivateKey(ctx, key) == 1);
    CHECK(SSL_CTX_check_private_key(ctx) == 1);
    SSL_CTX_free(ctx);
    EVP_PKEY_free(key);
    EVP_PKEY_free(wrong);
}

/* The calls that libssl makes for its own keys, and what happens to ordinary keys, with this provider beside. */
static void ordinary_keys(void) {
    EVP_PKEY *ec = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256"), *peer = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    EVP_PKEY *rsa = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
    CHECK(ec != NULL && peer != NULL && rsa != NULL);
    sign(ec);
    sign(rsa);
    unsigned char *point = NULL;
    size_t length = EVP_PKEY_get1_encoded_public_key(peer, &point);
    EVP_PKEY *copy = EVP_PKEY_new();
    CHECK(length == 65 && EVP_PKEY_copy_parameters(copy, peer) == 1);
    CHECK(EVP_PKEY_set1_encoded_public_key(copy, point, length) == 1);
    CHECK(EVP_PKEY_eq(copy, peer) == 1 && EVP_PKEY_eq(copy, ec) != 1);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(ec, NULL);
    unsigned char secret[32];
    size_t secret_length = sizeof secret;
    CHECK(EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, copy) == 1);
    CHECK(EVP_PKEY_derive(ctx, secret, &secret_length) == 1 && secret_length == 32);
    EVP_PKEY_CTX_free(ctx);
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_PrivateKey(bio, rsa, NULL, NULL, 0, NULL, NULL) == 1);
    EVP_PKEY *read = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    CHECK(read != NULL && EVP_PKEY_eq(read, rsa) == 1);
    sign(read);
    OPENSSL_free(point);
    BIO_free(bio);
    EVP_PKEY *all[] = {ec, peer, rsa, copy, read};
    for (int i = 0; i < 5; i++) EVP_PKEY_free(all[i]);
    CHECK(ERR_peek_error() == 0);
}

/* The error stack has this reason. */
static void explained(const char *reason) {
    char text[16384] = "";
    BIO *bio = BIO_new(BIO_s_mem());
    ERR_print_errors(bio);
    int length = BIO_read(bio, text, sizeof text - 1);
    text[length > 0 ? length : 0] = 0;
    BIO_free(bio);
    if (strstr(text, reason) == NULL) {
        fprintf(stderr, "\"%s\" is not in: %s\n", reason, text);
        _exit(1);
    }
}

/* Must fail, with a reason, in time. */
static void refused(const char *uri, const char *reason, int seconds) {
    time_t begin = time(NULL);
    CHECK(load(uri) == NULL);
    CHECK(time(NULL) - begin <= seconds);
    explained(reason);
}

static void nothing(int signal) { (void)signal; }

/* The same for a keyd at `path` that accepts nobody, while signals interrupt the waiting. */
static void interrupted(const char *path, const char *uri, const char *reason, int seconds) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(strlen(path) < sizeof address.sun_path);
    strcpy(address.sun_path, path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 0) == 0);
    while (connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&address, sizeof address) == 0) continue;
    CHECK(errno == EAGAIN);
    struct sigaction action = {.sa_handler = nothing};
    struct itimerval often = {{0, 10000}, {0, 10000}};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    refused(uri, reason, seconds);
}

/* Loads the provider from `directory`, tries, and prints the reasons. */
static void refused_in(const char *directory, const char *uri) {
    OSSL_LIB_CTX *lib = OSSL_LIB_CTX_new();
    OSSL_PROVIDER_set_default_search_path(lib, directory);
    CHECK(OSSL_PROVIDER_load(lib, "aziot") != NULL && OSSL_PROVIDER_load(lib, "default") != NULL);
    load_in(lib, uri);
    ERR_print_errors_fp(stdout);
}

struct handshakes {
    SSL_CTX *server, *client;
    int count;
    pthread_mutex_t *lock;
};

static int handshake(SSL_CTX *server_ctx, SSL_CTX *client_ctx) {
    SSL *server = SSL_new(server_ctx), *client = SSL_new(client_ctx);
    BIO *a, *b;
    CHECK(BIO_new_bio_pair(&a, 0, &b, 0) == 1);
    SSL_set_bio(server, a, a);
    SSL_set_bio(client, b, b);
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    int done = 0;
    for (int i = 0; i < 100 && !done; i++) {
        int from_client = SSL_do_handshake(client), from_server = SSL_do_handshake(server);
        if ((from_client != 1 && SSL_get_error(client, from_client) == SSL_ERROR_SSL) ||
            (from_server != 1 && SSL_get_error(server, from_server) == SSL_ERROR_SSL))
            break;
        done = from_client == 1 && from_server == 1;
    }
    SSL_free(server);
    SSL_free(client);
    return done;
}

static void *shake(void *argument) {
    struct handshakes *work = argument;
    for (;;) {
        pthread_mutex_lock(work->lock);
        int left = work->count--;
        pthread_mutex_unlock(work->lock);
        if (left <= 0) return NULL;
        CHECK(handshake(work->server, work->client));
        CHECK(ERR_peek_error() == 0); /* nothing stale is left on the stack */
    }
}

static SSL_CTX *ctx_with(const SSL_METHOD *method, const char *certificate, const char *uri) {
    SSL_CTX *ctx = SSL_CTX_new(method);
    EVP_PKEY *key = load(uri);
    CHECK(key != NULL);
    CHECK(SSL_CTX_use_certificate_chain_file(ctx, certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(ctx, key) == 1);
    CHECK(SSL_CTX_load_verify_locations(ctx, certificate, NULL) == 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    EVP_PKEY_free(key);
    return ctx;
}

/* Handshakes a second; the server with the key `uri`, the client with the same or with the key in a file. */
static void handshakes(const char *certificate, const char *uri, const char *client_uri, int threads, int count) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct handshakes work = {ctx_with(TLS_server_method(), certificate, uri),
                              ctx_with(TLS_client_method(), certificate, client_uri), count, &lock};
    pthread_t ids[64];
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < threads; i++) CHECK(pthread_create(&ids[i], NULL, shake, &work) == 0);
    for (int i = 0; i < threads; i++) CHECK(pthread_join(ids[i], NULL) == 0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", count / (double)(end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9));
    SSL_CTX_free(work.server);
    SSL_CTX_free(work.client);
}

/* A handshake for each line on standard input. */
static void handshake_on_demand(const char *certificate, const char *uri) {
    SSL_CTX *server = ctx_with(TLS_server_method(), certificate, uri);
    SSL_CTX *client = ctx_with(TLS_client_method(), certificate, uri);
    for (char line[16]; fgets(line, sizeof line, stdin) != NULL;) {
        puts(handshake(server, client) ? "shaken" : "failed");
        ERR_clear_error();
        fflush(stdout);
    }
}

/* A key in a PEM file as the C SDK takes it: RSA keys as an RSA object, for which the private half must be here. */
static void c_sdk(const char *certificate, const char *file) {
    SSL_CTX *client = SSL_CTX_new(TLS_client_method()), *server = ctx_with(TLS_server_method(), certificate, file);
    BIO *pem = BIO_new_file(file, "r");
    EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL);
    CHECK(key != NULL);
    BIO_free(pem);
    CHECK(SSL_CTX_use_certificate_chain_file(client, certificate) == 1);
    CHECK(SSL_CTX_load_verify_locations(client, certificate, NULL) == 1);
    int taken = 0;
    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA) {
        RSA *rsa = EVP_PKEY_get1_RSA(key);
        taken = rsa != NULL && SSL_CTX_use_RSAPrivateKey(client, rsa) == 1;
        RSA_free(rsa);
    } else {
        taken = SSL_CTX_use_PrivateKey(client, key) == 1;
    }
    puts(!taken ? "not taken" : handshake(server, client) ? "shaken" : "failed");
    EVP_PKEY_free(key);
    SSL_CTX_free(client);
    SSL_CTX_free(server);
}

#ifdef HAS_ENGINE
static ENGINE *engine(const char *id) {
    ENGINE *engine = ENGINE_by_id(id);
    CHECK(engine != NULL);
    CHECK(ENGINE_init(engine) == 1);
    return engine;
}

/* As the C SDK does on each connection: find, init, load, finish, free; and the key is used after that. */
static void engine_loop(const char *handle, int rounds, int is_default) {
    for (int i = 0; i < rounds; i++) {
        ENGINE *own = engine(i % 2 ? "aziot-key-openssl-engine" : "aziot_keys");
        CHECK(!is_default || ENGINE_set_default(own, ENGINE_METHOD_ALL) == 1);
        EVP_PKEY *key = ENGINE_load_private_key(own, handle, NULL, NULL);
        CHECK(key != NULL);
        EVP_PKEY *public = ENGINE_load_public_key(own, handle, NULL, NULL);
        CHECK(public != NULL && EVP_PKEY_eq(key, public) == 1);
        CHECK(ENGINE_finish(own) == 1 && ENGINE_free(own) == 1);
        sign(key);
        EVP_PKEY *copy = EVP_PKEY_dup(key);
        CHECK(copy != NULL || EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA);
        EVP_PKEY_free(key);
        if (copy != NULL) sign(copy);
        EVP_PKEY_free(copy);
        EVP_PKEY_free(public);
        ERR_clear_error();
    }
}

static void engine_checks(const char *ec, const char *rsa) {
    ENGINE *first = engine("aziot_keys");
    for (int i = 0; i < 3; i++) {
        ENGINE *again = ENGINE_by_id("aziot_keys");
        CHECK(again != NULL && strcmp(ENGINE_get_id(again), "aziot_keys") == 0);
        CHECK(strcmp(ENGINE_get_name(again), "An openssl engine that talks to the Azure IoT Keys Service") == 0);
        ENGINE_free(again);
    }
    CHECK(ENGINE_load_private_key(first, NULL, NULL, NULL) == NULL && ERR_peek_error() != 0);
    CHECK(ENGINE_load_private_key(first, "sr=&sig=", NULL, NULL) == NULL && ERR_peek_error() != 0);
    ERR_clear_error();
    EVP_PKEY *ec_key = ENGINE_load_private_key(first, ec, NULL, NULL);
    EVP_PKEY *rsa_key = ENGINE_load_private_key(first, rsa, NULL, NULL);
    CHECK(EVP_PKEY_get_base_id(ec_key) == EVP_PKEY_EC && EVP_PKEY_get_base_id(rsa_key) == EVP_PKEY_RSA);
    unsigned char digest[64] = {7}, signature[1024];
    size_t length = sizeof signature;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(ec_key, NULL);
    CHECK(EVP_PKEY_sign_init(ctx) == 1 && EVP_PKEY_sign(ctx, signature, &length, digest, sizeof digest) == 1);
    CHECK(EVP_PKEY_verify_init(ctx) == 1 && EVP_PKEY_verify(ctx, signature, length, digest, sizeof digest) == 1);
    EVP_PKEY_CTX_free(ctx);
    threads_and_fork(ec_key);
    threads_and_fork(rsa_key);
    ENGINE_ctrl_cmd_string(first, "SOCKET", "unix:///nonexistent/keyd.sock", 0);
    EVP_PKEY_free(ec_key);
    EVP_PKEY_free(rsa_key);
    ENGINE_finish(first);
    ENGINE_free(first);
}

/* The socket by control command; keyd need not run when the engine is initialised. */
static void engine_socket(const char *socket, const char *handle) {
    ENGINE *own = engine("aziot_keys");
    CHECK(ENGINE_ctrl_cmd_string(own, "SOCKET", "http://localhost", 0) != 1);
    CHECK(ENGINE_ctrl_cmd_string(own, "SOCKET", socket, 0) == 1);
    CHECK(ENGINE_ctrl_cmd_string(own, "TIMEOUT", "5", 0) == 1);
    EVP_PKEY *key = ENGINE_load_private_key(own, handle, NULL, NULL);
    CHECK(key != NULL);
    sign(key);
    EVP_PKEY_free(key);
    ENGINE_finish(own);
    ENGINE_free(own);
}

static void version_check(const char *path) {
    void *module = dlopen(path, RTLD_NOW);
    CHECK(module != NULL);
    unsigned long (*check)(unsigned long) = (unsigned long (*)(unsigned long))dlsym(module, "v_check");
    CHECK(check != NULL && check(0x00030000) == 0x00030000 && check(0x00020000) == 0);
    dlclose(module);
}

/* The same through the engine; the time that an operation may take by a control command, if given. */
static void engine_refused(const char *handle, int seconds, const char *reason, const char *limit) {
    ENGINE *own = engine("aziot_keys");
    CHECK(*limit == 0 || ENGINE_ctrl_cmd_string(own, "TIMEOUT", limit, 0) == 1);
    time_t begin = time(NULL);
    CHECK(ENGINE_load_private_key(own, handle, NULL, NULL) == NULL && ERR_peek_error() != 0);
    CHECK(time(NULL) - begin <= seconds);
    explained(reason);
    ENGINE_finish(own);
    ENGINE_free(own);
}
#endif

int main(int count, char **words) {
    CHECK(count >= 2);
    char *none = "", *argument[6];
    for (int i = 0; i < 6; i++) argument[i] = i + 2 < count ? words[i + 2] : none;
#define IS(name) (strcmp(words[1], name) == 0)
    if (IS("loop")) loop(argument[0], atoi(argument[1]), *argument[2] != 0);
    else if (IS("contexts")) contexts(argument[0]);
    else if (IS("unloaded")) unloaded(argument[0]);
    else if (IS("match")) match(argument[0], argument[1], argument[2]);
    else if (IS("ordinary")) ordinary_keys();
    else if (IS("refused")) refused(argument[0], argument[1], atoi(argument[2]));
    else if (IS("interrupted")) interrupted(argument[0], argument[1], argument[2], atoi(argument[3]));
    else if (IS("refused-in")) refused_in(argument[0], argument[1]);
    else if (IS("handshakes"))
        return handshakes(argument[0], argument[1], argument[2], atoi(argument[3]), atoi(argument[4])), 0;
    else if (IS("c-sdk")) return c_sdk(argument[0], argument[1]), 0;
    else if (IS("on-demand")) return handshake_on_demand(argument[0], argument[1]), 0;
#ifdef HAS_ENGINE
    else if (IS("engine-loop")) engine_loop(argument[0], atoi(argument[1]), *argument[2] != 0);
    else if (IS("engine-checks")) engine_checks(argument[0], argument[1]);
    else if (IS("engine-socket")) engine_socket(argument[0], argument[1]);
    else if (IS("v-check")) version_check(argument[0]);
    else if (IS("engine-refused")) engine_refused(argument[0], atoi(argument[1]), argument[2], argument[3]);
#endif
    else {
        EVP_PKEY *key = load(argument[0]);
        CHECK(key != NULL);
        if (IS("threads")) threads_and_fork(key);
        else if (IS("export")) export(key);
        else CHECK(!"a known command");
        EVP_PKEY_free(key);
    }
    puts("ok");
    return 0;
}
