/* Where libmemcached's weighted ketama puts keys: `ketama HOST:PORT[/WEIGHT]... < keys` prints the
 * position of each key's server, a line for each. */
#include <libmemcached/memcached.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **servers) {
    memcached_st *client = memcached_create(NULL);
    memcached_behavior_set(client, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
    memcached_server_list_st list = NULL;
    memcached_return_t done;
    for (int i = 1; i < count; i++) {
        char *weight = strchr(servers[i], '/');
        if (weight != NULL) {
            *weight++ = '\0';
        }
        char *port = strrchr(servers[i], ':');
        *port++ = '\0';
        int units = weight == NULL ? 1 : atoi(weight);
        list = memcached_server_list_append_with_weight(list, servers[i], atoi(port), units, &done);
    }
    memcached_server_push(client, list);
    char key[1024];
    while (fgets(key, sizeof key, stdin) != NULL) {
        key[strcspn(key, "\n")] = '\0';
        printf("%u\n", memcached_generate_hash(client, key, strlen(key)));
    }
    return 0;
}
