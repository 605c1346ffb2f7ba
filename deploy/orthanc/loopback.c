/* Preloaded into Orthanc, which before 1.12.10 listens on all addresses and cannot be told otherwise:
 * whatever it binds in IPv4 is bound to 127.0.0.1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

int bind(int socket, const struct sockaddr *address, socklen_t size)
{
  int (*system_bind)(int, const struct sockaddr *, socklen_t) =
      (int (*)(int, const struct sockaddr *, socklen_t)) dlsym(RTLD_NEXT, "bind");
  if (address->sa_family != AF_INET || size < sizeof(struct sockaddr_in))
    return system_bind(socket, address, size);
  struct sockaddr_in local = *(const struct sockaddr_in *) address;
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return system_bind(socket, (const struct sockaddr *) &local, sizeof local);
}
