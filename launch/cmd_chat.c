/* A conversation on the terminal. Ctrl-C ends the answer that is being written; at the prompt it ends the chat. With
 * several ranks it goes to the launcher, which lets the answer finish and ends the chat. */

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "launch/command.h"
#include "launch/session.h"
#include "launch/stop.h"
#include "runtime/base/log.h"

enum { MESSAGES_MAX = 4096 };

typedef struct Chat {
    Session *session;
    ChatMessage messages[MESSAGES_MAX]; /* contents are owned, but the system message's */
    size_t count, first;                /* first: behind the system message */
    TextBuffer answer;
    Status status;         /* of the answer */
    int interrupted;       /* eventfd: Ctrl-C was pressed */
    atomic_bool interrupt; /* the same, for the answer in progress */
    bool terminal;
} Chat;

static void on_interrupt(void *user) {
    Chat *chat = user;
    const uint64_t one = 1;
    atomic_store(&chat->interrupt, true);
    /* Cannot fail: the counter is far from its limit. */
    (void)!write(chat->interrupted, &one, sizeof one);
}

static void forget(Chat *chat, size_t count) {
    while (chat->count > count)
        free((char *)chat->messages[--chat->count].content);
}

static Status remember(Chat *chat, const char *role, const char *text, size_t text_bytes) {
    if (chat->count == MESSAGES_MAX)
        FAIL(REQUEST, "a chat has %d messages at most; /clear begins anew", MESSAGES_MAX);
    char *copy = malloc(text_bytes + 1);
    if (!copy) FAIL(MEMORY, "no memory for a message");
    memcpy(copy, text, text_bytes);
    copy[text_bytes] = 0;
    chat->messages[chat->count++] = (ChatMessage){role, copy, text_bytes};
    return STATUS_OK;
}

/* ---- an answer ---- */

static void take_text(Chat *chat, const char *text, size_t text_bytes) {
    if (chat->status == STATUS_OK && text_bytes > 0)
        chat->status = text_buffer_add(&chat->answer, text, text_bytes);
    fwrite(text, 1, text_bytes, stdout);
    fflush(stdout);
}

static void on_token(void *user, const TokenEvent *event) {
    take_text(user, event->text, event->text_bytes);
}

static void on_finish(void *user, const FinishEvent *event) {
    Chat *chat = user;
    take_text(chat, event->text, event->text_bytes);
    fputs(event->reason == FINISH_CANCELLED ? " …\n" : "\n", stdout);
    fflush(stdout);
    if (event->reason == FINISH_ERROR && chat->status == STATUS_OK)
        chat->status = error_raise(event->error, "%s", event->error_text);
}

static Status encode(const Chat *chat, TokenList *out) {
    const ChatTemplate *template = chat->session->chat;
    TextBuffer prompt = {0};
    Status status = template->render(template, chat->messages, chat->count, true, &prompt);
    if (status == STATUS_OK)
        status = tokenizer_encode(chat->session->tokenizer, prompt.text, prompt.bytes,
                                  TOKENIZE_PARSE_SPECIAL, out);
    text_buffer_free(&prompt);
    return status;
}

static Status run_steps(Chat *chat, const Request *request) {
    Session *session = chat->session;
    bool idle = false;
    TRY(engine_submit(session->engine, request));
    while (!idle) {
        if (atomic_exchange(&chat->interrupt, false))
            (void)engine_cancel(session->engine, request->id); /* NOT_FOUND: it has just ended */
        TRY(session_step(session, &idle));
    }
    return chat->status;
}

static Status answer(Chat *chat) {
    TokenList tokens = {0};
    Request request;
    chat->status = STATUS_OK;
    chat->answer.bytes = 0;
    Status status = encode(chat, &tokens);
    if (status == STATUS_OK) {
        session_request(chat->session, &tokens, &request);
        request.sink = (RequestSink){.user = chat, .on_token = on_token, .on_finish = on_finish};
        atomic_store(&chat->interrupt, false);
        status = run_steps(chat, &request);
    }
    token_list_free(&tokens);
    if (status == STATUS_OK)
        status = remember(chat, "assistant", chat->answer.text ? chat->answer.text : "",
                          chat->answer.bytes);
    return status;
}

/* ---- the conversation ---- */

/* Waits for a line, a stop or Ctrl-C; false when the chat is over. */
static bool read_message(Chat *chat, char **line, size_t *capacity, size_t *out_bytes) {
    struct pollfd sources[] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = stop_descriptor(), .events = POLLIN},
        {.fd = chat->interrupted, .events = POLLIN},
    };
    uint64_t presses;
    (void)!read(chat->interrupted, &presses, sizeof presses); /* those during the answer */
    if (chat->terminal) {
        fputs("> ", stdout);
        fflush(stdout);
    }
    while (poll(sources, 3, -1) < 0 && errno == EINTR)
        ;
    if (sources[1].revents || sources[2].revents) return false;
    ssize_t bytes = getline(line, capacity, stdin);
    if (bytes < 0) return false;
    while (bytes > 0 && ((*line)[bytes - 1] == '\n' || (*line)[bytes - 1] == '\r'))
        (*line)[--bytes] = 0;
    *out_bytes = (size_t)bytes;
    return true;
}

/* What can never be answered is told and forgotten; the chat goes on. */
static Status take_message(Chat *chat, const char *text, size_t text_bytes) {
    size_t before = chat->count;
    TRY(remember(chat, "user", text, text_bytes));
    Status status = answer(chat);
    if (status != STATUS_BAD_INPUT) return status;
    forget(chat, before);
    log_note("that message was dropped; /clear begins a new conversation");
    return STATUS_OK;
}

static Status converse(Chat *chat) {
    char *line = NULL;
    size_t capacity = 0, bytes = 0;
    Status status = STATUS_OK;
    while (status == STATUS_OK && stop_requested() == STOP_NONE &&
           read_message(chat, &line, &capacity, &bytes)) {
        if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) break;
        if (strcmp(line, "/clear") == 0)
            forget(chat, chat->first);
        else if (line[0] == '/')
            fputs("/clear begins a new conversation, /exit ends the chat\n", stderr);
        else if (bytes > 0)
            status = take_message(chat, line, bytes);
    }
    free(line);
    return status;
}

static Status open_chat(Session *session, void *user) {
    Chat *chat = user;
    chat->session = session;
    session->request_count_max = 1;
    if (!session->chat)
        FAIL(CHAT_TEMPLATE, "%s",
             session->chat_refusal[0] ? session->chat_refusal
                                      : "the model has no chat template; choose one with "
                                        "--chat-template");
    if (session->settings->system) {
        const char *text = session->settings->system;
        chat->messages[chat->count++] = (ChatMessage){"system", text, strlen(text)};
        chat->first = 1;
    }
    chat->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    chat->interrupted = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    setvbuf(stdin, NULL, _IONBF, 0); /* poll must see what is not read yet */
    if (chat->interrupted < 0) FAIL(MEMORY, "eventfd for Ctrl-C: %s", strerror(errno));
    return STATUS_OK;
}

static Status hold_chat(Session *session, void *user) {
    Chat *chat = user;
    if (session->ranks.comm->size == 1) stop_divert_interrupt(on_interrupt, chat);
    if (chat->terminal)
        fputs("/clear begins a new conversation, /exit ends the chat, Ctrl-C ends an answer\n",
              stderr);
    return converse(chat);
}

static int run_chat(const Settings *settings) {
    static Chat chat = {.interrupted = -1};
    const SessionPlan plan = {
        .needs_text = true, .prepare = open_chat, .work = hold_chat, .user = &chat};
    int exit_code = session_run(settings, &plan);
    forget(&chat, chat.first);
    text_buffer_free(&chat.answer);
    if (chat.interrupted >= 0) close(chat.interrupted);
    return exit_code;
}

const Command command_chat[] = {
    {.name = "chat",
     .summary = "talk to a model on the terminal",
     .positionals = "model",
     .needs = "model",
     .takes = "@model @ranks @engine @sampling system summary-json dry-run",
     .interactive = true,
     .run = run_chat},
    {.name = NULL},
};
