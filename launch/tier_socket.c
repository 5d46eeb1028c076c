#include "launch/tier_socket.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "launch/tier_view.h"
#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"

#define NAME_PREFIX "tiers-"
#define NAME_SUFFIX ".sock"

enum { BACKLOG = 16, ANSWERS_AT_ONCE = 4, ANSWER_BYTES_MAX = 64 << 10, ANSWER_WAIT_S = 10 };

static const double look_interval_s = 0.05;

/* ---- names ---- */

/* Whether what snprintf returned says that all fitted. */
static bool fits(int bytes, size_t room) {
    return bytes > 0 && (size_t)bytes < room;
}

static bool is_among(char folders[][TIER_SOCKET_PATH_BYTES], int count, const char *folder) {
    for (int i = 0; i < count; i++)
        if (strcmp(folders[i], folder) == 0) return true;
    return false;
}

int tier_socket_folders(char out[TIER_SOCKET_FOLDERS_MAX][TIER_SOCKET_PATH_BYTES]) {
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
    const char *const parents[] = {temporary, "/tmp"};
    int count = 0;
    if (runtime && runtime[0] == '/')
        count += fits(snprintf(out[0], sizeof out[0], "%s/spillway", runtime), sizeof out[0]);
    for (size_t i = 0; i < sizeof parents / sizeof *parents; i++) {
        if (!parents[i] || parents[i][0] != '/') continue;
        int bytes =
            snprintf(out[count], sizeof out[0], "%s/spillway-%ld", parents[i], (long)geteuid());
        if (fits(bytes, sizeof out[0]) && !is_among(out, count, out[count])) count++;
    }
    return count;
}

/* The folder is ours and nobody else gets in. */
static Status make_folder(const char *folder) {
    struct stat found;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        FAIL(OUTPUT_CREATE, "folder \"%s\" for the tiers socket: %s; see --tiers-socket", folder,
             strerror(errno));
    if (lstat(folder, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
        (found.st_mode & 077) == 0)
        return STATUS_OK;
    FAIL(OUTPUT_CREATE,
         "\"%s\" is not a folder of this user's alone (mode 0700), so no tiers socket is put "
         "there; see --tiers-socket",
         folder);
}

/* Descriptor of a connection, or -errno. It waits up to wait_s for a place in the queue, and for every answer; 0: never. */
static int connect_to(const char *path, int wait_s) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval wait = {.tv_sec = wait_s};
    if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int descriptor =
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (wait_s > 0 ? 0 : SOCK_NONBLOCK), 0);
    if (descriptor < 0) return -errno;
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0) return descriptor;
    int failed = errno;
    close(descriptor);
    return -failed;
}

/* Does anybody listen? A full queue says yes. */
static bool is_alive(const char *path) {
    int descriptor = connect_to(path, 0);
    if (descriptor >= 0) close(descriptor);
    return descriptor >= 0 || descriptor == -EAGAIN;
}

/* The pid in a socket's name; 0 when it is none. */
static long pid_of(const char *name) {
    long pid = 0;
    int end = 0;
    sscanf(name, NAME_PREFIX "%ld" NAME_SUFFIX "%n", &pid, &end);
    return end > 0 && name[end] == 0 ? pid : 0;
}

/* Calls for every socket of a folder. */
static void each_socket(const char *folder, void (*visit)(void *user, const char *path, long pid),
                        void *user) {
    DIR *listing = opendir(folder);
    if (!listing) return;
    for (struct dirent *entry; (entry = readdir(listing));) {
        char path[TIER_SOCKET_PATH_BYTES];
        long pid = pid_of(entry->d_name);
        if (pid > 0 &&
            fits(snprintf(path, sizeof path, "%s/%s", folder, entry->d_name), sizeof path))
            visit(user, path, pid);
    }
    closedir(listing);
}

static void remove_stale(void *user, const char *path, long pid) {
    (void)user, (void)pid;
    if (!is_alive(path)) unlink(path);
}

/* ---- the job's side ---- */

/* The mode is that of the descriptor when it is bound, so the socket was never open to others. */
static Status listen_at(TierSocket *out, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        FAIL(OUTPUT_CREATE, "tiers socket \"%s\": a path of at most %zu bytes is possible", path,
             sizeof address.sun_path - 1);
    struct stat found;
    strcpy(address.sun_path, path);
    if (lstat(path, &found) == 0 && S_ISSOCK(found.st_mode) && !is_alive(path)) unlink(path);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor >= 0 && fchmod(descriptor, 0600) == 0 &&
        bind(descriptor, (struct sockaddr *)&address, sizeof address) == 0 &&
        listen(descriptor, BACKLOG) == 0) {
        *out = (TierSocket){.open = true, .descriptor = descriptor};
        strcpy(out->path, path);
        return STATUS_OK;
    }
    int failed = errno;
    if (descriptor >= 0) close(descriptor);
    FAIL(OUTPUT_CREATE, "tiers socket \"%s\": %s; see --tiers-socket", path, strerror(failed));
}

static Status listen_in(TierSocket *out, const char *folder) {
    char path[TIER_SOCKET_PATH_BYTES + 32];
    TRY(make_folder(folder));
    each_socket(folder, remove_stale, NULL);
    if (!fits(snprintf(path, sizeof path, "%s/" NAME_PREFIX "%ld" NAME_SUFFIX, folder,
                       (long)getpid()),
              sizeof path))
        FAIL(OUTPUT_CREATE, "folder \"%s\": too long a name for the tiers socket", folder);
    return listen_at(out, path);
}

static Status listen_somewhere(TierSocket *out) {
    char folders[TIER_SOCKET_FOLDERS_MAX][TIER_SOCKET_PATH_BYTES];
    int count = tier_socket_folders(folders);
    Status status = STATUS_NOT_FOUND;
    for (int i = 0; i < count && status != STATUS_OK; i++)
        status = listen_in(out, folders[i]);
    return status;
}

Status tier_socket_open(TierSocket *out, const char *path, const TierJob *job) {
    TRY(path ? listen_at(out, path) : listen_somewhere(out));
    out->job = *job;
    return STATUS_OK;
}

void tier_socket_close(TierSocket *socket) {
    if (!socket->open) return;
    unlink(socket->path);
    close(socket->descriptor);
    socket->open = false;
}

static char *job_to_text(const TierJob *job) {
    const EngineStats stats = engine_stats_of_ranks(job->engine);
    json_t *root =
        json_pack("{sI ss si sf sI si si s{sI sI} sf sf so so so}", "pid", (json_int_t)getpid(),
                  "model", job->model, "ranks", job->rank_count, "uptime_seconds",
                  monotonic_seconds() - job->started_seconds, "steps", (json_int_t)stats.steps,
                  "running", (int)stats.running, "waiting", (int)stats.waiting, "tokens", "prompt",
                  (json_int_t)stats.prompt_tokens, "generated", (json_int_t)stats.generated_tokens,
                  "hit_share", tier_view_hit_share(&stats), "stall_share",
                  tier_view_stall_share(&stats), "tiers", tier_view_tiers(&stats), "kv",
                  tier_view_kv(&stats), "weights", tier_view_weights(&stats));
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    return text;
}

void tier_socket_serve(TierSocket *socket) {
    double now = monotonic_seconds();
    if (!socket->open || now - socket->looked_seconds < look_interval_s) return;
    socket->looked_seconds = now;
    for (int i = 0; i < ANSWERS_AT_ONCE; i++) {
        int client = accept4(socket->descriptor, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0) return;
        char *text = job_to_text(&socket->job);
        size_t bytes = text ? strlen(text) : 0;
        if (text) text[bytes] = '\n'; /* in the place of the 0 */
        if (text) (void)!send(client, text, bytes + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        free(text);
        close(client);
    }
}

/* ---- the side of those who ask ---- */

typedef struct Search {
    long pid;
    TierSocketName *out;
    int count, count_max;
} Search;

static void note_alive(void *user, const char *path, long pid) {
    Search *search = user;
    if ((search->pid != 0 && search->pid != pid) || search->count == search->count_max) return;
    if (!is_alive(path)) return;
    strcpy(search->out[search->count++].path, path);
}

int tier_socket_find(long pid, TierSocketName *out, int count_max) {
    char folders[TIER_SOCKET_FOLDERS_MAX][TIER_SOCKET_PATH_BYTES];
    int count = tier_socket_folders(folders);
    Search search = {.pid = pid, .out = out, .count_max = count_max};
    for (int i = 0; i < count && search.count == 0; i++)
        each_socket(folders[i], note_alive, &search);
    return search.count;
}

/* Reads to the end of the line; false when time is up, or the end comes before. */
static bool read_line(int descriptor, char *out, size_t *out_bytes) {
    size_t count = 0;
    while (count < ANSWER_BYTES_MAX) {
        ssize_t bytes = read(descriptor, out + count, ANSWER_BYTES_MAX - count);
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes <= 0) return false;
        count += (size_t)bytes;
        if (out[count - 1] != '\n') continue;
        *out_bytes = count;
        return true;
    }
    return false;
}

static Status check_owner(const char *path) {
    struct stat found;
    if (lstat(path, &found) != 0)
        FAIL(NO_JOB, "\"%s\": %s; spillway tiers alone finds the jobs of this user", path,
             strerror(errno));
    if (!S_ISSOCK(found.st_mode)) FAIL(NO_JOB, "\"%s\" is no socket of a running job", path);
    if (found.st_uid != geteuid() && geteuid() != 0)
        FAIL(NO_JOB, "\"%s\" belongs to user %ld: a job answers its own user only", path,
             (long)found.st_uid);
    return STATUS_OK;
}

Status tier_socket_ask(const char *path, char **out_text, size_t *out_bytes) {
    TRY(check_owner(path));
    int descriptor = connect_to(path, ANSWER_WAIT_S);
    if (descriptor < 0)
        FAIL(NO_JOB, "\"%s\": %s", path,
             descriptor == -ECONNREFUSED ? "its job has ended" : strerror(-descriptor));
    void *text = NULL;
    Status status = memory_take(&text, ANSWER_BYTES_MAX, 1, "the answer of the job");
    if (status == STATUS_OK && !read_line(descriptor, text, out_bytes))
        status = error_raise(ERROR_NO_JOB,
                             "\"%s\": the job gave no answer within %d s: it ended, or is in a "
                             "long step, or waits for input",
                             path, ANSWER_WAIT_S);
    close(descriptor);
    if (status != STATUS_OK) {
        free(text);
        return status;
    }
    *out_text = text;
    return STATUS_OK;
}
