/*
 * Python for Ansible that is warm already: hands a program on standard input to warm-python.service, which runs it in a
 * fork of an interpreter that has loaded what modules need. Without the service, or with arguments, it is python3.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PYTHON "/usr/bin/python3"
#define SIZE 65536 /* of the working directory, the umask and the environment together */

extern char **environ;

static int add(char *text, size_t *used, const char *word) {
    size_t size = strlen(word) + 1;
    if (*used + size > SIZE)
        return 0;
    memcpy(text + *used, word, size);
    *used += size;
    return 1;
}

/* Tell the service what a process inherits: working directory, umask, environment, and the three standard files. */
static int hand_over(int service) {
    static char text[SIZE];
    char mask[8], folder[4096];
    size_t used = 0;
    mode_t old = umask(0);
    umask(old);
    for (int digit = 0; digit < 4; digit++)
        mask[digit] = '0' + ((old >> (9 - 3 * digit)) & 7);
    mask[4] = 0;
    if (!getcwd(folder, sizeof folder) || !add(text, &used, folder) || !add(text, &used, mask))
        return 0;
    for (char **entry = environ; *entry; entry++)
        if (!add(text, &used, *entry))
            return 0;

    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control = {0};
    struct iovec part = {text, used};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *files = CMSG_FIRSTHDR(&message);
    files->cmsg_level = SOL_SOCKET;
    files->cmsg_type = SCM_RIGHTS;
    files->cmsg_len = CMSG_LEN(3 * sizeof(int));
    memcpy(CMSG_DATA(files), (int[]){0, 1, 2}, 3 * sizeof(int));
    return sendmsg(service, &message, MSG_NOSIGNAL) == (ssize_t)used;
}

int main(int count, char **words) {
    struct sockaddr_un place = {AF_UNIX, "/run/warm-python.sock"};
    int service = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    unsigned char status;
    if (count == 1 && service >= 0 && !connect(service, (struct sockaddr *)&place, sizeof place) && hand_over(service))
        return read(service, &status, 1) == 1 ? status : 255;
    execv(PYTHON, words);
    return 127;
}
