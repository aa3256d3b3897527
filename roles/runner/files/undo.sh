# Removes what the role put there, and says what. `sh -s -- undo LIB PATH…`: the paths, LIB, Ansible's own folder of
# whoever runs this, and of the folders that LIB/made names those that are empty then. `check` only says.
set -eu
how=$1 lib=$2
shift 2
made=$(cat -- "$lib/made" 2>/dev/null || true)
for path in "$@" "$lib" "$HOME/.pool-ansible"; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    [ "$how" = check ] || rm -rf -- "$path"
    printf '%s\n' "$path"
done
[ "$how" = check ] && exit
printf '%s\n' "$made" | sort -r | while IFS= read -r folder; do
    [ -d "$folder" ] || continue
    rmdir --ignore-fail-on-non-empty -- "$folder"
    [ -d "$folder" ] || printf '%s\n' "$folder"
done
