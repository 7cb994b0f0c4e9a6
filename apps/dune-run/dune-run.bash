# SPDX-License-Identifier: Apache-2.0
#
# Completion of dune-run for bash.

_dune_run() {
	local current=${COMP_WORDS[COMP_CWORD]} word=1

	# PROGRAM is the first word that is neither an option nor --argv0's value.
	while [ $word -lt "$COMP_CWORD" ]; do
		case ${COMP_WORDS[word]} in
		--argv0) word=$((word + 2)) ;;
		-*) word=$((word + 1)) ;;
		*) break ;;
		esac
	done
	if [ $word -lt "$COMP_CWORD" ] && declare -F _command_offset > /dev/null; then
		_command_offset $word
	elif [ $word -ne "$COMP_CWORD" ]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
	elif [[ $current = -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W '--stats --plain --fast --follow-exec --gc-dirty --argv0
			--help --version' -- "$current")
	else
		mapfile -t COMPREPLY < <(compgen -c -- "$current")
	fi
}

complete -F _dune_run dune-run
