/*
 * Keeps a standard input or output unusable that was closed when the program was started: every read and
 * write fails with EBADF, and no file that is opened later gets its number.
 *
 * Rust's runtime opens /dev/null there for reading and writing, so that a closed standard output looks
 * like one that was redirected to /dev/null. This constructor runs before it, and opens /dev/null for
 * the other direction, as the GNU C library does for set-user-ID programs (csu/check_fds.c). Standard error
 * is left to Rust: it may be discarded.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void keep_closed_descriptors_unusable(void)
{
    const int saved = errno;
    for (int number = STDIN_FILENO; number <= STDOUT_FILENO; number++) {
        if (fcntl(number, F_GETFD) != -1 || errno != EBADF)
            continue;
        /* The lowest free number is taken. */
        const int opened = open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        if (opened != number && opened != -1)
            close(opened);
    }
    errno = saved;
}
