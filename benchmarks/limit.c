/* Read an object by range requests over several connections, and do nothing else: what this machine can do at most.
 *
 *     limit URL SIZE CONNECTIONS RING RANGE [AUTHORITY]
 *
 * One thread for each connection takes the next RANGE bytes, as long as there are any. It receives into its share of RING
 * bytes, over and over; with a RING of 0 each byte goes to its own place in fresh memory, as large as the object. Over
 * https the certificate is checked against AUTHORITY. Prints one line of JSON: seconds, and CPU seconds before the start.
 * Every answer is counted to the byte; what is in it is not looked at.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MOST = 16384 };

static char host[64], path[1024];
static int port;
static long size, range, share;  /* share: bytes of a connection's part of the ring; 0 without one */
static char *memory;
static atomic_long next_start;
static SSL_CTX *context;  /* NULL for plain http */

struct connection {
    int number, socket;
    SSL *tls;
    pthread_t thread;
};

static void fail(const char *what) {
    fprintf(stderr, "limit: %s\n", what);
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void split(const char *url) {
    int is_tls = strncmp(url, "https://", 8) == 0;
    if (sscanf(url + (is_tls ? 8 : 7), "%63[^:]:%d%1023s", host, &port, path) != 3) fail("the URL wants a host, a port and a path");
}

static void trust(const char *authority) {
    context = SSL_CTX_new(TLS_client_method());
    if (!context || SSL_CTX_load_verify_locations(context, authority, NULL) != 1) fail("cannot use the authority");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
}

static void open_connection(struct connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    connection->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->socket, (struct sockaddr *)&address, sizeof address)) fail("cannot connect");
    if (!context) return;
    connection->tls = SSL_new(context);
    SSL_set_fd(connection->tls, connection->socket);
    if (SSL_connect(connection->tls) != 1) fail("no TLS");
}

static long receive(struct connection *connection, char *place, long most) {
    long count = connection->tls ? SSL_read(connection->tls, place, most) : recv(connection->socket, place, most, 0);
    if (count <= 0) fail("the server ended early");
    return count;
}

/* Send a request, and receive the head; return how many bytes of the body came with it, and are at place now. */
static long ask(struct connection *connection, long start, long stop, char *place) {
    char text[2048], head[HEAD_MOST + 1], *body = NULL;
    long held = 0;
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nRange: bytes=%ld-%ld\r\n\r\n", path, host, start, stop - 1);
    if ((connection->tls ? SSL_write(connection->tls, text, length) : send(connection->socket, text, length, 0)) != length) fail("cannot send");
    while (!body && held < HEAD_MOST) {
        held += receive(connection, head + held, HEAD_MOST - held);
        head[held] = 0;
        body = memmem(head, held, "\r\n\r\n", 4);
    }
    if (!body || strncmp(head, "HTTP/1.1 206", 12)) fail("the server does not answer with a range");
    body += 4;
    held -= body - head;
    memcpy(place, body, held);
    return held;
}

static void *work(void *argument) {
    struct connection *connection = argument;
    open_connection(connection);
    for (long start; (start = atomic_fetch_add(&next_start, range)) < size;) {
        long stop = start + range < size ? start + range : size, position = start, at = 0;
        char *base = share ? memory + connection->number * share : memory + start;
        long room = share ? share : stop - start;
        at = ask(connection, start, stop, base);
        position += at;
        while (position < stop) {
            if (at == room) at = 0;
            long most = stop - position < room - at ? stop - position : room - at;
            if (most > 1 << 20) most = 1 << 20;
            long count = receive(connection, base + at, most);
            at += count;
            position += count;
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 6) fail("wants URL SIZE CONNECTIONS RING RANGE [AUTHORITY]");
    split(arguments[1]);
    size = atol(arguments[2]);
    int connections = atoi(arguments[3]);
    long ring = atol(arguments[4]);
    range = atol(arguments[5]);
    if (count > 6) trust(arguments[6]);
    share = ring / connections;
    if (share && share < HEAD_MOST) fail("the ring is too small");
    double began = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    memory = mmap(NULL, share ? ring : size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory");
    struct connection *all = calloc(connections, sizeof *all);
    for (int number = 0; number < connections; number++) {
        all[number].number = number;
        if (pthread_create(&all[number].thread, NULL, work, &all[number])) fail("no thread");
    }
    for (int number = 0; number < connections; number++) pthread_join(all[number].thread, NULL);
    printf("{\"seconds\": %.6f, \"cpu_before\": %.6f, \"bytes\": %ld}\n", seconds(CLOCK_MONOTONIC) - began, used, size);
    return 0;
}
