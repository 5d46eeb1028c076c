#include "launch/ranks.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/launcher.h"
#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/invariant.h"

enum { HOST_BYTES = 64, VOTE_TEXT_BYTES = 320, ABORT_SECONDS = 1 };

/* Records that ranks exchange; plain bytes, so they are zeroed before they are filled. */
typedef struct NodeRecord {
    SharedMemoryTicket ticket;
    cpu_set_t cores; /* that this rank may run on */
    char host[HOST_BYTES];
    int32_t local_rank;
    uint32_t threads; /* --threads */
} NodeRecord;

typedef struct FactRecord {
    uint64_t hash;
    char name[RANKS_FACT_NAME_BYTES];
} FactRecord;

/* Of a fact that differs, cut. */
typedef struct FactText {
    char text[RANKS_FACT_TEXT_BYTES];
} FactText;

typedef struct VoteRecord {
    int32_t status;
    int32_t error; /* ErrorCode; ERROR_COUNT when the status came without one */
    char text[VOTE_TEXT_BYTES];
} VoteRecord;

/* One record of the same size from every rank: *out [size], to be freed. */
static Status exchange(Comm *comm, const void *mine, uint64_t record_bytes, void **out) {
    void *sizes, *records;
    TRY(memory_take(&sizes, (uint64_t)comm->size, sizeof(uint64_t), "exchange between ranks"));
    Status status =
        memory_take(&records, (uint64_t)comm->size, record_bytes, "exchange between ranks");
    if (status == STATUS_OK) {
        for (int rank = 0; rank < comm->size; rank++)
            ((uint64_t *)sizes)[rank] = record_bytes;
        status = comm_all_gather(comm, mine, records, sizes);
        if (status == STATUS_OK)
            *out = records;
        else
            free(records);
    }
    free(sizes);
    return status;
}

static bool equal_facts(const FactRecord *a, const FactRecord *b) {
    return a->hash == b->hash && strcmp(a->name, b->name) == 0;
}

/* How many ranks agree with `rank` on fact number `fact`. */
static int count_equal(const FactRecord *facts, int size, int rank, int fact) {
    const FactRecord *own = &facts[rank * RANKS_FACTS_MAX + fact];
    int equal = 0;
    for (int other = 0; other < size; other++)
        equal += equal_facts(own, &facts[other * RANKS_FACTS_MAX + fact]);
    return equal;
}

/* The first rank with the most common value, and whether it is common to all. */
static int find_usual_rank(const FactRecord *facts, int size, int fact, bool *out_unanimous) {
    int usual = 0, most = 0;
    for (int rank = 0; rank < size; rank++) {
        int equal = count_equal(facts, size, rank, fact);
        if (equal <= most) continue;
        most = equal;
        usual = rank;
    }
    *out_unanimous = most == size;
    return usual;
}

/* From where both are in the first line that they do not share. */
static void skip_equal_lines(const char **a, const char **b) {
    for (;;) {
        size_t bytes = strcspn(*a, "\n") + 1;
        if (strncmp(*a, *b, bytes) != 0 || (*a)[bytes - 1] == '\0') return;
        *a += bytes;
        *b += bytes;
    }
}

static void copy_line(const char *text, char out[RANKS_FACT_SHOWN_BYTES]) {
    snprintf(out, RANKS_FACT_SHOWN_BYTES, "%.*s", (int)strcspn(text, "\n"), text);
}

static Status refuse_fact(const Comm *comm, const FactRecord *facts, const FactText *texts,
                          int usual, int fact) {
    const FactRecord *expected = &facts[usual * RANKS_FACTS_MAX + fact];
    int odd = 0;
    while (equal_facts(expected, &facts[odd * RANKS_FACTS_MAX + fact]))
        odd++;
    const FactRecord *found = &facts[odd * RANKS_FACTS_MAX + fact];
    const char *odd_text = texts[odd].text, *usual_text = texts[usual].text;
    char odd_line[RANKS_FACT_SHOWN_BYTES], usual_line[RANKS_FACT_SHOWN_BYTES], text[400];
    skip_equal_lines(&odd_text, &usual_text);
    copy_line(odd_text, odd_line);
    copy_line(usual_text, usual_line);
    snprintf(text, sizeof text,
             "rank %d has %s \"%s\" (%016llx), rank %d has %s \"%s\" (%016llx): start every rank "
             "with the same program, model and options",
             odd, found->name, odd_line, (unsigned long long)found->hash, usual, expected->name,
             usual_line, (unsigned long long)expected->hash);
    if (comm->rank != 0) return error_adopt(ERROR_RANK_MISMATCH, text);
    FAIL(RANK_MISMATCH, "%s", text);
}

/* All ranks see the same records, so all come to the same fact, and show each other its text. */
static Status compare_facts(Comm *comm, const FactRecord *all, const RanksFact *own,
                            int fact_count) {
    for (int fact = 0; fact < RANKS_FACTS_MAX; fact++) {
        bool unanimous;
        int usual = find_usual_rank(all, comm->size, fact, &unanimous);
        if (unanimous) continue;
        FactText mine = {0};
        void *texts;
        if (fact < fact_count) snprintf(mine.text, sizeof mine.text, "%s", own[fact].text);
        TRY(exchange(comm, &mine, sizeof mine, &texts));
        Status status = refuse_fact(comm, all, texts, usual, fact);
        free(texts);
        return status;
    }
    return STATUS_OK;
}

Status ranks_agree(Ranks *ranks, const RanksFact *facts, int fact_count) {
    FactRecord mine[RANKS_FACTS_MAX] = {0};
    void *all;
    CHECK(fact_count <= RANKS_FACTS_MAX);
    if (ranks->comm->size == 1) return STATUS_OK;
    for (int fact = 0; fact < fact_count; fact++) {
        mine[fact].hash = hash_xxh3(facts[fact].text, strlen(facts[fact].text), 0);
        snprintf(mine[fact].name, sizeof mine[fact].name, "%s", facts[fact].name);
    }
    TRY(exchange(ranks->comm, mine, sizeof mine, &all));
    Status status = compare_facts(ranks->comm, all, facts, fact_count);
    free(all);
    return status;
}

static Status adopt_vote(int rank, const VoteRecord *vote) {
    char text[VOTE_TEXT_BYTES + 32];
    if (vote->error < 0 || vote->error >= ERROR_COUNT) return (Status)vote->status;
    snprintf(text, sizeof text, "rank %d: %.*s", rank, VOTE_TEXT_BYTES, vote->text);
    (void)error_adopt((ErrorCode)vote->error, text);
    return (Status)vote->status;
}

static Status collect_votes(Ranks *ranks, Status mine, VoteRecord **out) {
    VoteRecord vote = {.status = (int32_t)mine, .error = ERROR_COUNT};
    void *all;
    if (mine != STATUS_OK) {
        const char *text;
        vote.error = (int32_t)error_last(&text);
        snprintf(vote.text, sizeof vote.text, "%s", text);
    }
    TRY(exchange(ranks->comm, &vote, sizeof vote, &all));
    *out = all;
    return STATUS_OK;
}

static Status count_votes(const VoteRecord *votes, int size) {
    for (int rank = 0; rank < size; rank++)
        if (votes[rank].status != STATUS_OK) return adopt_vote(rank, &votes[rank]);
    return STATUS_OK;
}

Status ranks_vote(Ranks *ranks, Status mine) {
    VoteRecord *votes;
    if (ranks->comm->size == 1) return mine;
    TRY(collect_votes(ranks, mine, &votes));
    Status status = count_votes(votes, ranks->comm->size);
    free(votes);
    return status;
}

static void tell_captured(void) {
    const char *text;
    ErrorCode error = error_last(&text);
    if (error != ERROR_COUNT) (void)error_raise(error, "%s", text);
}

static bool met_before(const VoteRecord *votes, int rank) {
    for (int lower = 0; lower < rank; lower++)
        if (votes[lower].error == votes[rank].error) return true;
    return false;
}

Status ranks_vote_captured(Ranks *ranks, Status mine) {
    VoteRecord *votes;
    int rank = ranks->comm->rank, size = ranks->comm->size;
    Status status = size > 1 ? collect_votes(ranks, mine, &votes) : STATUS_OK;
    if (size == 1 || status != STATUS_OK) {
        if (mine != STATUS_OK) tell_captured();
        return mine != STATUS_OK ? mine : status;
    }
    if (mine != STATUS_OK && !met_before(votes, rank)) tell_captured();
    status = count_votes(votes, size);
    free(votes);
    return status;
}

/* Is `core` a second hardware thread of a core that the set holds already? */
static bool is_sibling(int core, const cpu_set_t *set) {
    char path[96];
    int first = core;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             core);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    if (fscanf(file, "%d", &first) != 1) first = core;
    fclose(file);
    return first != core && first >= 0 && first < CPU_SETSIZE && CPU_ISSET(first, set);
}

static void find_cores(cpu_set_t *out) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        CPU_ZERO(&allowed);
        CPU_SET(0, &allowed);
    }
    CPU_ZERO(out);
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &allowed) && !is_sibling(core, &allowed)) CPU_SET(core, out);
}

/* What falls to this rank when each core is shared evenly by the ranks that may run on it: right for ranks bound
 * apart, and for ranks that all may run anywhere. */
static double fair_share(const NodeRecord *records, int size, const NodeRecord *own) {
    double share = 0;
    for (int core = 0; core < CPU_SETSIZE; core++) {
        int users = 0;
        if (!CPU_ISSET(core, &own->cores)) continue;
        for (int rank = 0; rank < size; rank++)
            users +=
                strcmp(records[rank].host, own->host) == 0 && CPU_ISSET(core, &records[rank].cores);
        share += 1.0 / users;
    }
    return share;
}

static void share_cores(Ranks *ranks, const NodeRecord *records, int size, int rank) {
    const NodeRecord *own = &records[rank];
    double share = fair_share(records, size, own);
    uint32_t threads = (uint32_t)(share + 0.01);
    if (own->threads) threads = own->threads;
    ranks->threads = threads > 0 ? threads : 1;
    ranks->comm->crowded = ranks->threads > share + 0.01;
}

/* The board is that of the node's local rank 0: the one on this host whose memory can be opened from here. */
static Status open_board(Ranks *ranks, const NodeRecord *records) {
    const Comm *comm = ranks->comm;
    const NodeRecord *own = &records[comm->rank];
    if (comm->local_rank == 0) return STATUS_OK;
    for (int rank = 0; rank < comm->size; rank++) {
        const NodeRecord *record = &records[rank];
        if (record->local_rank == 0 && strcmp(record->host, own->host) == 0 &&
            shared_memory_open(&ranks->board, &record->ticket) == STATUS_OK)
            return STATUS_OK;
    }
    FAIL(COMM,
         "the ranks of this node share no memory for the watchdog: run them in one container, "
         "as one user");
}

static Status start_watchdog(Ranks *ranks, const char *host, double timeout_seconds) {
    const WatchdogOptions options = {.comm = ranks->comm,
                                     .board = ranks->board.base,
                                     .host = host,
                                     .timeout_seconds = timeout_seconds};
    return watchdog_start(&ranks->watchdog, &options);
}

static void place_rank(const RanksOptions *options, int local_rank) {
    if (options->place) options->place(options->place_user, local_rank);
}

/* Everything that ranks must learn about each other's place before they work. */
static Status meet_node(Ranks *ranks, const RanksOptions *options) {
    static char host[HOST_BYTES];
    Comm *comm = ranks->comm;
    NodeRecord own = {.local_rank = comm->local_rank, .threads = options->threads};
    gethostname(host, sizeof host - 1);
    memcpy(own.host, host, sizeof host);
    place_rank(options, comm->local_rank);
    find_cores(&own.cores);
    Status status = STATUS_OK;
    if (comm->local_rank == 0)
        status = shared_memory_create(&ranks->board, watchdog_board_bytes(comm->local_size),
                                      &own.ticket);
    TRY(ranks_vote(ranks, status));
    void *all;
    TRY(exchange(comm, &own, sizeof own, &all));
    share_cores(ranks, all, comm->size, comm->rank);
    status = open_board(ranks, all);
    free(all);
    if (status == STATUS_OK) status = start_watchdog(ranks, host, options->comm_timeout_seconds);
    status = ranks_vote(ranks, status);
    shared_memory_close_door(&ranks->board);
    return status;
}

static Status start_alone(Ranks *ranks, const RanksOptions *options) {
    cpu_set_t cores;
    place_rank(options, 0);
    find_cores(&cores);
    ranks->threads = options->threads ? options->threads : (uint32_t)CPU_COUNT(&cores);
    return comm_self_create(&ranks->comm);
}

static Status check_size(int wanted, int started) {
    if (wanted == 0 || wanted == started) return STATUS_OK;
    FAIL(USAGE, "--ranks %d, but the launcher started %d: leave out --ranks, or start as many",
         wanted, started);
}

static Status join(Ranks *ranks, const RanksOptions *options) {
    TRY(comm_mpi_create(&ranks->comm, false));
    TRY(check_size(options->size, ranks->comm->size));
    if (ranks->comm->size == 1) {
        Comm *comm = ranks->comm;
        ranks->comm = NULL;
        comm_destroy(comm);
        return start_alone(ranks, options);
    }
    TRY(ranks_agree(ranks, options->facts, options->fact_count));
    return meet_node(ranks, options);
}

Status ranks_start(Ranks *out, const RanksOptions *options) {
    LauncherPlace place;
    *out = (Ranks){.board = {.descriptor = -1}};
    TRY(launcher_find(&place));
    if (!place.name) {
        CHECK(options->size <= 1); /* else main would have called launcher_run */
        return start_alone(out, options);
    }
    if (place.size > 0) TRY(check_size(options->size, place.size));
    return join(out, options);
}

static Status watch_alone(Ranks *ranks, double timeout_seconds) {
    SharedMemoryTicket ticket;
    TRY(shared_memory_create(&ranks->board, watchdog_board_bytes(1), &ticket));
    shared_memory_close_door(&ranks->board);
    return start_watchdog(ranks, "", timeout_seconds);
}

Status ranks_watch_device(Ranks *ranks, const char *device, double timeout_seconds) {
    if (!ranks->watchdog) TRY(watch_alone(ranks, timeout_seconds));
    watchdog_set_device(ranks->watchdog, device);
    return STATUS_OK;
}

void ranks_stop(Ranks *ranks, int exit_code) {
    watchdog_leave(ranks->watchdog, exit_code);
    comm_destroy(ranks->comm);
    watchdog_stop(ranks->watchdog);
    shared_memory_destroy(&ranks->board);
    *ranks = (Ranks){.board = {.descriptor = -1}};
}

void ranks_abort(Ranks *ranks, int exit_code) {
    watchdog_leave(ranks->watchdog, exit_code);
    fflush(NULL);
    comm_abort(ranks->comm, ABORT_SECONDS);
    _exit(exit_code);
}
